"""The systems that the benchmark compares: what each one trains, in which order its batches come, in which type."""

from dataclasses import dataclass
from importlib.util import find_spec

BATCH = 32


@dataclass(frozen=True)
class Method:
    """A way to fine-tune, without its type."""

    name: str
    trainer: str = "stock"  # or "recipe" or "cross-encoder"
    trains: str = "full"  # or "10-11" (0-9 frozen) or "lora"
    order: str = "shuffled"  # or "grouped" (group_by_length) or "recipe"
    layers: int = 12
    padded: bool = False
    package: str = ""  # needed besides the recipe's own


@dataclass(frozen=True)
class Row:
    """A method in a type: float32, or bfloat16 autocast over float32 weights."""

    method: Method
    bf16: bool

    @property
    def name(self) -> str:
        """The method's name and the type."""
        return f"{self.method.name}, {self.type}"

    @property
    def type(self) -> str:
        """What it computes in."""
        return "bfloat16" if self.bf16 else "float32"


METHODS = {
    "a": Method("stock, full, padded to 128 (run_glue)", padded=True),
    "b": Method("stock, full, dynamic padding"),
    "c": Method("stock, 0-9 frozen, dynamic padding", trains="10-11"),
    "d": Method("stock, 0-9 frozen, group_by_length", trains="10-11", order="grouped"),
    "e": Method("peft LoRA, dynamic padding", trains="lora", package="peft"),
    "f": Method("this recipe, no cache", "recipe", "10-11", "recipe"),
    "g": Method("this recipe, cache made", "recipe", "10-11", "recipe"),
    "h": Method("this recipe, cache found", "recipe", "10-11", "recipe"),
    "i": Method("stock, first 3 layers, full, group_by_length", order="grouped", layers=3),
    "j": Method("stock, first 6 layers, full, group_by_length", order="grouped", layers=6),
    "k": Method("CrossEncoder trainer, 0-9 frozen", "cross-encoder", "10-11", package="sentence_transformers"),
}
# A letter is the method in float32, a letter and 16 the same in bfloat16.
ROWS = {letter + end: Row(method, end == "16") for letter, method in METHODS.items() for end in ("", "16")}
SMALL_MODELS = "ij"


def default_keys(bfloat16: bool) -> list[str]:
    """Rows that this machine can run: both types where it multiplies in bfloat16 (the small models there alone)."""
    able = [key for key, row in ROWS.items() if not row.method.package or find_spec(row.method.package)]
    if not bfloat16:
        return [key for key in able if not ROWS[key].bf16]
    return [key for key in able if ROWS[key].bf16 or key not in SMALL_MODELS]
