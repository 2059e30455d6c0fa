"""SIMD vectors inside compiled loops: what numba lacks to reach a processor's full speed.

A loop that numba leaves to LLVM may or may not become vector code, and sums in an order that
changes with its unrolling. These types name the vectors outright: LANES floats, or twice as many
words against LANES sums of their products. What comes out is the same to the bit whatever stands
around it. Of a processor only the width of its registers is asked for: LLVM turns the operations
into what the one at hand has (for the products of words vpmaddwd with AVX2, vpdpwssd with VNNI,
smull, uzp1, uzp2 and add on AArch64).
"""

import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import (  # type: ignore[import-untyped]
    get_host_cpu_features,
    get_host_cpu_name,
)
from numba import types
from numba.core import cgutils, config
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, register_model


def has(feature: str) -> bool:
    """Whether the processor that numba compiles for has a feature, by LLVM's name for it."""
    settings: Any = config  # its fields come from the environment
    if settings.CPU_FEATURES is not None:
        return f"+{feature}" in settings.CPU_FEATURES.split(",")
    if settings.CPU_NAME not in (None, get_host_cpu_name()):
        return False
    try:
        return bool(get_host_cpu_features().get(feature))
    except RuntimeError:  # LLVM cannot tell, on some systems; numba then asks for no feature
        return False


# Registers of 512 bits, and 32 of them.
WIDE = has("avx512f")
LANES = 16 if WIDE else 8  # floats in a vector
FLOAT, WORD, SUM = ir.FloatType(), ir.IntType(16), ir.IntType(32)
PRODUCTS = ir.VectorType(SUM, 2 * LANES)
BYTES = ir.VectorType(ir.IntType(8), 2 * LANES)  # int8 in memory; widened to words when loaded
# Multiplied and added at once where the processor can.
FMULADD = f"llvm.fmuladd.v{LANES}f32"


def instruction(function: Callable[..., Any]) -> Any:
    """A function that numba asks for the type of a call and for what emits its LLVM code."""
    return intrinsic(function)


class Vector(types.Type):
    """A vector register as numba sees it."""

    def __init__(self, name: str, llvm: ir.VectorType) -> None:
        """Give it a name and what LLVM calls it."""
        self.llvm = llvm
        super().__init__(name)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is kept as it is, in a register if LLVM can."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        """Hand numba the vector's LLVM type."""
        super().__init__(manager, vector, vector.llvm)  # type: ignore[no-untyped-call]


Floats = Vector("Floats", ir.VectorType(FLOAT, LANES))
Four = Vector("Four", ir.VectorType(FLOAT, 4))
Words = Vector("Words", ir.VectorType(WORD, 2 * LANES))
Sums = Vector("Sums", ir.VectorType(SUM, LANES))

VECTORS = {types.float32: Floats, types.int8: Words, types.int16: Words}
TOTALS = {types.float32: Floats, types.int8: Sums}  # what products with such weights add up in


def _pointer(context: Any, builder: Any, array_type: Any, place: Any, to: Any) -> Any:
    """To the place, (array, index counted through all of it), as a pointer to a vector."""
    array, index = place
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 1  # nothing is known about the index
    return value


@instruction
def load(typing: Any, array: Any, index: Any) -> Any:
    """Floats, or int16 or int8 as words, that follow each other in an array."""
    vector = VECTORS[array.dtype]

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        there = BYTES if array.dtype == types.int8 else vector.llvm
        value = _load(builder, _pointer(context, builder, array, args, there))
        return builder.sext(value, vector.llvm) if there is BYTES else value

    return vector(array, types.intp), emit


@instruction
def load_pair(typing: Any, array: Any, index: Any) -> Any:
    """Two int16 that follow each other in an array, again and again."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = _load(builder, _pointer(context, builder, array, args, SUM))
        return builder.bitcast(_repeat(builder, pair, Sums.llvm), Words.llvm)

    return Words(array, types.intp), emit


@instruction
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Put a vector of floats into an array; into one of int16, whole numbers as such."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        *place, value = args
        if array.dtype == types.int16:
            value = builder.fptosi(value, ir.VectorType(WORD, LANES))
        pointer = _pointer(context, builder, array, place, value.type)
        builder.store(value, pointer).align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@instruction
def splat(typing: Any, number: Any) -> Any:
    """The same float32 in every lane."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _repeat(builder, args[0], Floats.llvm)

    return Floats(types.float32), emit


def _repeat(builder: Any, number: Any, llvm: Any) -> Any:
    nothing = ir.Constant(llvm, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(SUM, 0))
    return builder.shuffle_vector(first, nothing, _places([0] * llvm.count))


def _places(numbers: Any) -> Any:
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(SUM, len(numbers)), numbers)


def _call(builder: Any, name: str, result: Any, args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@instruction
def zero(typing: Any, weights: Any) -> Any:
    """Where the products with such weights begin to add up."""
    vector = TOTALS[weights.dtype]
    return vector(weights), lambda context, builder, sig, args: ir.Constant(vector.llvm, None)


@instruction
def add_products(typing: Any, total: Any, weights: Any, values: Any) -> Any:
    """Total + weights * values of words, exactly: the products are added up in pairs."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        product = builder.mul(*(builder.sext(arg, PRODUCTS) for arg in args[1:]))
        nothing = ir.Constant(PRODUCTS, ir.Undefined)
        pairs = [
            builder.shuffle_vector(product, nothing, _places(range(i, 2 * LANES, 2)))
            for i in (0, 1)
        ]
        return builder.add(args[0], builder.add(*pairs))

    return total(total, weights, values), emit


@instruction
def add_sums(typing: Any, a: Any, b: Any) -> Any:
    """A + b, lane by lane of whole numbers."""
    return Sums(Sums, Sums), lambda context, builder, sig, args: builder.add(*args)


@instruction
def as_floats(typing: Any, sums: Any) -> Any:
    """Whole numbers as the floats that are nearest."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], Floats.llvm)

    return Floats(Sums), emit


@instruction
def totals(typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sum of the lanes of each of four vectors of floats."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def halve(left: Any, right: Any) -> Any:
            lanes = 2 * left.type.count if right.type == left.type else left.type.count
            return builder.fadd(
                *(builder.shuffle_vector(left, right, _places(range(i, lanes, 2))) for i in (0, 1))
            )

        result = halve(halve(args[0], args[1]), halve(args[2], args[3]))
        while result.type.count > 4:
            nothing = ir.Constant(result.type, ir.Undefined)
            count = result.type.count
            places = _places(range(0, count, 2)), _places(range(1, count, 2))
            result = builder.fadd(
                *(builder.shuffle_vector(result, nothing, place) for place in places)
            )
        return result

    return Four(a, b, c, d), emit


@instruction
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c, lane by lane."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, FMULADD, Floats.llvm, args)

    return Floats(Floats, Floats, Floats), emit


def _extreme(order: str) -> Any:
    @instruction
    def pick(typing: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            # A nan on the left stays.
            return builder.select(builder.fcmp_ordered(order, args[1], args[0]), *args[::-1])

        return Floats(Floats, Floats), emit

    return pick


smaller = _extreme("<")
larger = _extreme(">")


@instruction
def largest(typing: Any, vector: Any) -> Any:
    """The largest lane."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = [builder.extract_element(args[0], ir.Constant(SUM, i)) for i in range(LANES)]
        while len(lanes) > 1:
            pairs = zip(lanes[::2], lanes[1::2], strict=True)
            lanes = [builder.select(builder.fcmp_ordered(">", a, b), a, b) for a, b in pairs]
        return lanes[0]

    return types.float32(Floats), emit


@instruction
def power_of_two(typing: Any, shifted: Any) -> Any:
    """2^n from n + SHIFT, n whole and from -126 to 127: its bits become an exponent."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], Sums.llvm)
        one, places = (ir.Constant(Sums.llvm, [n] * LANES) for n in (0x3F800000, 23))
        return builder.bitcast(builder.add(builder.shl(bits, places), one), Floats.llvm)

    return Floats(Floats), emit


def _define(operation: Any, build: str) -> None:
    class Operator(ConcreteTemplate):
        cases = (signature(Floats, Floats, Floats),)

    infer_global(operation)(Operator)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, build)(*args)

    lower_builtin(operation, Floats, Floats)(emit)


for _operation, _build in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_operation, _build)


@instruction
def is_quantized(typing: Any, array: Any) -> Any:
    """Whether an array holds whole numbers; known while compiling."""
    answer = ir.Constant(ir.IntType(1), int(isinstance(array.dtype, types.Integer)))
    return types.boolean(array), lambda context, builder, sig, args: answer


@instruction
def add_atomic(typing: Any, array: Any, amount: Any) -> Any:
    """Add to the first number of an int64 array that threads share; gives what it was."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "acq_rel")

    return types.int64(array, types.int64), emit


@instruction
def load_atomic(typing: Any, array: Any) -> Any:
    """The first number of an int64 array, and with it all that was written before it changed."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(array), emit


@instruction
def stay_apart(typing: Any) -> Any:
    """Said in a function, keeps LLVM from copying it into those that call it."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


if sys.platform == "win32":

    @instruction
    def yield_core(typing: Any) -> Any:
        """Nothing here: the function of this purpose is in no library that is always loaded."""
        return types.void(), lambda context, builder, sig, args: context.get_dummy_value()

else:
    # Let other threads that wait for this core go first (POSIX).
    yield_core = types.ExternalFunction("sched_yield", types.int32())


SHIFT = np.float32(1.5 * 2**23)  # added to a float, leaves its whole part in the lowest bits
