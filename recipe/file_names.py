"""Names of the files and folders that runs leave behind and later commands look for."""

RUN = "run.json"  # what a run followed from; with it, the run is finished
MODEL = "model.safetensors"
CODE = ("modeling.py", "cls_layer.py")  # beside every saved model; the first imports the second
SCORES = "eval_results.json"
RESULTS = "all_results.json"
CARD = "README.md"
FIGURES = ("learning_curve.png", "confusion.png", "reliability.png", "scatter.png")
CURVE, CONFUSION, RELIABILITY, SCATTER = FIGURES
PREDICTIONS = "predictions.jsonl"
PARTIAL_PREDICTIONS = "predictions-{}.partial.jsonl"  # {}: what they follow from

# of a checkpoint-N folder
MANIFEST = "manifest.json"
STATE = "trainer_state.json"
WEIGHTS = "trainable.safetensors"
