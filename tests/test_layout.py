"""The rules of the layout: what may import what, what is packaged, and what no source file may contain."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tokenreel

ROOT = Path(tokenreel.__file__).parent
FOLDERS = ("nodes", "host", "models", "tokens", "video", "training", "benchmarks")
# from the lowest to the highest
FILES = (
    "stations",
    "sampling",
    "interpolation",
    "upscaling",
    "finishing",
    "generation",
    "rate_distortion",
    "svg_plots",
    "demo_report",
    "demo",
    "commands",
    "token_commands",
    "model_commands",
    "workflow_commands",
    "argument_types",
    "model_arguments",
    "cli_arguments",
    "cli",
)
OURS = (*FOLDERS, *FILES)
EVERYTHING_BELOW = {
    "host",
    "models",
    "tokens",
    "video",
    "stations",
    "sampling",
    "interpolation",
    "upscaling",
    "finishing",
    "generation",
    "rate_distortion",
}
MAY_IMPORT = {
    "nodes": EVERYTHING_BELOW,
    "cli": {"cli_arguments", "commands", "host"},
    "cli_arguments": {
        "argument_types",
        "model_arguments",
        "commands",
        "token_commands",
        "workflow_commands",
        "benchmarks",
    },
    "model_arguments": {"argument_types", "commands", "model_commands"},
    "argument_types": set(),
    "model_commands": EVERYTHING_BELOW | {"commands", "nodes"},
    "workflow_commands": {"commands", "host", "nodes"},
    "token_commands": EVERYTHING_BELOW | {"commands", "nodes"},
    "commands": EVERYTHING_BELOW | {"demo", "benchmarks", "nodes"},
    "demo": EVERYTHING_BELOW | {"demo_report"},
    "demo_report": {"host", "video", "svg_plots"},
    "svg_plots": set(),
    "stations": {"models", "tokens", "video"},
    "sampling": {"stations", "models", "tokens", "video"},
    "interpolation": {"stations", "models", "video"},
    "upscaling": {"interpolation", "stations", "models", "video"},
    "finishing": {"interpolation", "stations", "models", "video"},
    "generation": {"stations", "models", "tokens", "video"},
    "rate_distortion": {"stations", "models", "tokens", "video"},
    "training": EVERYTHING_BELOW,
    "benchmarks": EVERYTHING_BELOW | {"nodes"},  # what a node does is measured, not a copy of it
    "host": {"video", "tokens"},
    "models": {"tokens"},
    "tokens": set(),
    "video": set(),
    "__init__": {"nodes"},  # inside comfy_entrypoint
}
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_execution",
    "comfy_extras",
    "comfy_kitchen",
    "comfyui_version",
    "folder_paths",
    "server",
    "execution",
}
OWN_TOP_LEVEL = {"tokenreel", *OURS}  # ComfyUI or another pack owns some of these names: ours are imported relatively
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "subprocess", "ctypes"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("os", "system"), ("os", "popen"), ("os", "_exit")}
PRINTING = {"cli", "training", "benchmarks"}
HEADLESS = {
    "torch": "torch",
    "numpy": "numpy",
    "av": "av",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "tqdm": "tqdm",
}
OPTIONAL = {"matplotlib", "scenedetect", "cv2", "spandrel"}  # [plots], [bench], [upscalers]; imported where needed
TOKENS_MAY_USE = {"numpy"}

SOURCES = sorted(
    path for name in OURS for path in ([ROOT / f"{name}.py"] if name in FILES else (ROOT / name).rglob("*.py"))
)
SOURCES = [ROOT / "__init__.py", *(path for path in SOURCES if path.exists())]
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())


def folder_of(path):
    """Which part of the pack a source belongs to: `tokens`, `cli`, ... or `__init__`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def absolute_imports(path):
    """Top-level names of all absolute imports, also those inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def relative_imports(path):
    """Parts of the pack that relative imports reach, the importing one left out."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        assert node.level - 1 <= len(here), f"{path.name}:{node.lineno} imports from above the pack"
        base = here[: len(here) - (node.level - 1)]
        modules = [node.module] if node.module else [alias.name for alias in node.names]
        for module in modules:
            reached = (*base, *module.split("."))[0]
            if reached in OURS and reached != folder_of(path):
                yield reached


def public_functions(node):
    """Functions and methods without a leading underscore; helpers inside functions are nobody else's."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_"):
                yield child
        else:
            yield from public_functions(child)


def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements):
    return {requirement.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip() for requirement in requirements}


class TestImports:
    @each_source
    def test_arrows(self, path):
        assert set(relative_imports(path)) <= MAY_IMPORT[folder_of(path)]

    @each_source
    def test_own_modules_are_imported_relatively(self, path):
        assert OWN_TOP_LEVEL.isdisjoint(absolute_imports(path))

    @each_source
    def test_only_the_host_knows_comfyui(self, path):
        if folder_of(path) != "host":
            assert COMFYUI.isdisjoint(absolute_imports(path))

    @each_source
    def test_only_video_knows_pyav(self, path):
        if folder_of(path) != "video":
            assert "av" not in absolute_imports(path)

    @each_source
    def test_third_party_modules_are_declared(self, path):
        foreign = set(absolute_imports(path)) - set(sys.stdlib_module_names) - COMFYUI
        assert foreign <= set(HEADLESS) | OPTIONAL
        if folder_of(path) == "tokens":
            assert foreign <= TOKENS_MAY_USE

    def test_arrows_are_noticed_when_they_point_up(self, tmp_path, monkeypatch):
        """The checks above see imports of every spelling."""
        (tmp_path / "video").mkdir()
        source = tmp_path / "video" / "bad.py"
        source.write_text("from ..nodes.types import A\nfrom .. import host\ndef f():\n    from ..models import b\n")
        monkeypatch.setitem(globals(), "ROOT", tmp_path)
        assert set(relative_imports(source)) == {"nodes", "host", "models"}


class TestSources:
    @each_source
    def test_nothing_dangerous(self, path):
        assert FORBIDDEN_MODULES.isdisjoint(absolute_imports(path))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, f"line {node.lineno}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in FORBIDDEN_ATTRIBUTES, f"line {node.lineno}"
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", f"line {node.value.lineno}"

    @each_source
    def test_broad_excepts_raise_again_or_say_why_not(self, path):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)] if node.type else ["everything"]
                broad = {"everything", "Exception", "BaseException"} & set(caught)
                raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
                explained = folder_of(path) == "host" and "noqa: BLE001 (" in lines[node.lineno - 1]
                assert not broad or raises or explained, f"line {node.lineno}"

    @each_source
    def test_only_commands_print(self, path):
        calls = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
        prints = [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
        assert not prints or folder_of(path) in PRINTING

    @each_source
    def test_size_letters_and_docstring(self, path):
        text = path.read_text(encoding="utf-8")
        assert text.isascii()
        assert len(text.splitlines()) <= 400
        assert ast.get_docstring(ast.parse(text)), "a module begins with a docstring"

    @each_source
    def test_functions_are_short(self, path):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 60, node.name

    @each_source
    def test_public_functions_are_typed(self, path):
        for node in public_functions(tree_of(path)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare and node.returns is not None, f"{node.name} at line {node.lineno}: {bare or 'return'}"

    @each_source
    def test_nothing_is_left_undone(self, path):
        text = path.read_text(encoding="utf-8").lower().replace("_", " ")
        assert not re.findall(r"\b(todo|fixme|xxx|placeholder|dummy|stub)s?\b", text)

    def test_no_file_is_called_utils(self):
        assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "misc", "common")]

    def test_node_ids_are_literal(self):
        """ComfyUI-Manager finds nodes by reading the source."""
        for path in SOURCES:
            for node in ast.walk(tree_of(path)):
                if folder_of(path) == "nodes" and isinstance(node, ast.keyword) and node.arg == "node_id":
                    assert isinstance(node.value, ast.Constant) and node.value.value.startswith("TokenReel_")


class TestPackaging:
    def test_every_package_is_listed(self):
        listed = {tuple(name.split(".")[1:]) for name in project()["tool"]["setuptools"]["packages"]}
        on_disk = {path.parent.relative_to(ROOT).parts for path in SOURCES if path.name == "__init__.py"}
        assert listed == on_disk

    def test_every_source_lies_in_a_package(self):
        folders = {path.parent for path in SOURCES if path.name == "__init__.py"}
        assert {path.parent for path in SOURCES} == folders

    def test_version_is_the_same_everywhere(self):
        assert project()["project"]["version"] == tokenreel.__version__
        assert f"## {tokenreel.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_requirements_are_the_dependencies(self):
        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        required = [line for line in lines if line.strip() and not line.startswith("#")]
        assert required == project()["project"]["dependencies"] == []

    def test_headless_extra_is_what_is_imported(self):
        imported = {name for path in SOURCES for name in absolute_imports(path)}
        extras = project()["project"]["optional-dependencies"]
        assert names(extras["headless"]) == {HEADLESS[name] for name in imported & set(HEADLESS)}

    def test_data_files_are_packaged(self):
        data = project()["tool"]["setuptools"]["package-data"]
        packaged = {
            path
            for package, patterns in data.items()
            for pattern in patterns
            for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
        }
        needed = {*(ROOT / "workflows").rglob("*.json"), *(ROOT / "models" / "weights").glob("*")}
        missing = {path.relative_to(ROOT).as_posix() for path in needed - packaged if path.is_file()}
        assert not missing

    def test_weights_are_small_and_have_a_card_each(self):
        weights = list((ROOT / "models" / "weights").glob("*.safetensors"))
        assert 0 < sum(path.stat().st_size for path in weights) <= 60e6
        assert not [path.name for path in weights if not path.with_suffix(".md").is_file()]

    def test_readme_has_one_test_command_and_one_main_command(self):
        lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if line.startswith("pip install ")]
        assert commands[0] == 'pip install ".[headless]" && tokenreel demo --output demo_output'
        tests = [line for line in commands if line.endswith("python -m pytest")]
        assert tests == ['pip install -e ".[headless,test]" && python -m pytest']


class TestRoot:
    def test_import_is_inert(self):
        """In a fresh process: no heavy module, no file but sources, no socket, and fast."""
        code = f"""
import importlib.util, sys, time
before = set(sys.modules)
opened = []
def watch(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")) and isinstance(arguments[0], str):
        opened.append(arguments[0])
    if event.startswith("socket."):
        opened.append(event)
sys.addaudithook(watch)
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r},
                                              submodule_search_locations=[{str(ROOT)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
seconds = time.perf_counter() - start
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}} & {{"torch", "numpy", "av", "comfy", "PIL"}}
print(repr((seconds < 0.5, sorted(loaded), opened, module.WEB_DIRECTORY)))
"""
        result = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True)
        assert ast.literal_eval(result.stdout) == (True, [], [], "./web")

    def test_v1_mappings_are_absent(self):
        """ComfyUI would take them and never ask comfy_entrypoint."""
        assert not hasattr(tokenreel, "NODE_CLASS_MAPPINGS")

    def test_modules_are_loaded_once(self):
        """Under one name each; pytest itself loads the inert root file once more."""
        loaded = {}
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) or ""
            if path.startswith(str(ROOT)) and path != tokenreel.__file__ and "tests" not in Path(path).parts:
                loaded.setdefault(path, []).append(name)
        assert not {path: found for path, found in loaded.items() if len(found) > 1}

    def test_comfyui_names_are_left_alone(self):
        for name in ("nodes", "models"):
            path = getattr(sys.modules.get(name), "__file__", None) or ""
            assert not path.startswith(str(ROOT))
