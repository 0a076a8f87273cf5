// What our nodes show are pictures. Nodes 2.0 takes what a node with a VIDEO input shows for a video, and fails to
// load it, unless the node says otherwise.
import { app } from "../../../scripts/app.js";

app.registerExtension({
  name: "tokenreel.pictures",
  nodeCreated(node) {
    const ours = node.comfyClass?.startsWith("TokenReel_");
    if (ours && node.inputs?.some((input) => input.type === "VIDEO")) node.previewMediaType = "image";
  },
});
