"""The texts of all nodes as ComfyUI's editor looks them up for a language.

`python -m tokenreel.nodes.texts` writes `locales/en/nodeDefs.json`; a test holds it against the schemas. The files of
the other languages have the same keys and are written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..host.api import io
from . import NODES

ENGLISH = Path(__file__).parents[1] / "locales" / "en" / "nodeDefs.json"


def node_texts() -> dict[str, dict]:
    """What is said of each node: node id -> display_name, description, inputs by id, outputs by their number.

    An input or output is a dict of `name` and `tooltip`. The editor reads dots in keys as levels, so that an input's
    id is written with underscores in their place.
    """
    return {schema.node_id: _texts_of(schema) for schema in (node.GET_SCHEMA() for node in NODES)}


def _texts_of(schema: io.Schema) -> dict:
    inputs = {socket.id.replace(".", "_"): {"name": socket.id, "tooltip": socket.tooltip} for socket in schema.inputs}
    outputs = {
        str(index): {"name": socket.display_name, "tooltip": socket.tooltip}
        for index, socket in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": outputs,
    }


def main() -> None:
    """Write the English file anew."""
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(node_texts(), indent=2, ensure_ascii=False)
    ENGLISH.write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
