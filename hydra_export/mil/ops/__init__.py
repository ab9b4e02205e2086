"""The operations that the evaluator understands: what each takes, what comes out, and how it is computed.

Semantics are those of the MIL operations in coremltools' documentation (converters.mil.mil.ops.defs). An operation, a
parameter or a way to use one that is not described here is refused, never guessed.
"""

from hydra_export.mil.ops import along_axes, classifier, constexprs, elementwise, integers, moving, products

__all__ = ["along_axes", "classifier", "constexprs", "elementwise", "integers", "moving", "products"]
