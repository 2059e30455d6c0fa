"""Matrix products inside compiled code, on matrices cut into panels of sixteen columns.

A recurrent layer multiplies a few rows by a large matrix, once for every time step. BLAS libraries
are made for large times large: at eight to thirty rows they reach half of what a core can do, and
each call pays for packing the matrix again. Here the matrix is packed once, as (N / 16, K, 16), and
a tile stays in registers while K is gone through: up to six rows of one panel, of few rows more
panels, or with the 32 registers of AVX-512 up to fourteen rows of two.

Every entry of a product is one chain of multiply-adds in the order of K. So its bits depend neither
on which rows and panels are computed together nor on the number of threads.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import add_symbol  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from seqtool.compiled import callback, inlined, spliced
from seqtool.vectors import WIDE

COLUMNS = 16  # of a panel: two AVX2 registers, one of AVX-512, four of NEON
# How much of the common dimension ``product`` goes through before it turns to other panels: some
# rows, and the panels that they meet, then stay in the second-level cache (14 rows of float32 and
# two panels: 188 KB).
DEEPEST = 1024
# Rows and panels of a tile: twelve of AVX2's sixteen registers hold sums, 28 of AVX-512's 32. A
# core that begins two multiply-adds in a cycle and ends them after four wants eight sums at least.
MOST_ROWS, ABREAST = (14, 2) if WIDE else (6, 1)
ABREAST_OF_THREE, ABREAST_OF_ONE = 2, 4  # panels of tiles of so few rows

_INDEX = ir.IntType(64)
_NAME = "seqtool_tile_{}"
SHARED = "seqtool_tile_of_floats"  # the name of the function that computes tiles of float32


def _pointer(context: Any, address: Any, unit: Any) -> Any:
    """The address, an integer, as a pointer to numbers of the type of ``unit``."""
    if not isinstance(unit, types.Number):
        raise TypingError(f"pointer needs a number for its type, got {unit}")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(unit)(types.int64, unit), generate


def _claim(context: Any, array: Any) -> Any:
    """Add one to the first entry of an int64 array; gives what was there before.

    No two threads get the same number.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, _INDEX(1), "monotonic")

    return types.int64(array), generate


def _copy_row(context: Any, a: Any, a_at: Any, b: Any, b_at: Any) -> Any:
    """Copy the sixteen entries of a flat array from an index on to another; as one vector."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2)
        )
        number = context.get_value_type(signature.args[0].dtype)
        vector = ir.VectorType(number, COLUMNS).as_pointer()
        align = 4 if number == ir.FloatType() else 8
        row = builder.load(builder.bitcast(builder.gep(source, [args[1]]), vector), align=align)
        builder.store(row, builder.bitcast(builder.gep(target, [args[3]]), vector), align=align)
        return context.get_dummy_value()

    return types.void(a, types.int64, b, types.int64), generate


def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """Ask for the line of a flat array in which an index lies; one past its end does no harm."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        _emit_prefetch(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


# numba takes the first argument away.
pointer: Any = intrinsic(_pointer)
claim: Any = intrinsic(_claim)
copy_row: Any = intrinsic(_copy_row)
prefetch: Any = intrinsic(_prefetch)


def _emit_prefetch(builder: Any, address: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    arguments = [byte] + [ir.IntType(32)] * 3
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), arguments), "llvm.prefetch.p0"
    )
    hints = [ir.IntType(32)(hint) for hint in (0, 3, 1)]  # to read, keep, data
    builder.call(function, [builder.bitcast(address, byte), *hints])


def _emit_tile(builder: Any, rows: int, panels: int, args: Any) -> None:
    """One tile, c += a b; the block that the builder is in must still be open.

    Args:
        builder: At the place for the code; afterwards behind it.
        rows: Of the tile.
        panels: Of the tile.
        args: As those of ``_tile_function``, without rows and panels.
    """
    a, a_row, a_column, b, b_panel, k, c, c_row, c_panel = args
    number = a.type.pointee
    vector = ir.VectorType(number, COLUMNS)
    name, align = ("f32", 4) if number == ir.FloatType() else ("f64", 8)
    # fmuladd, not fma: processors without the instruction multiply, then add.
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{COLUMNS}{name}"
    )

    def further(base: Any, distance: Any, times: int) -> Any:
        return builder.gep(base, [builder.mul(distance, _INDEX(times))])

    def vector_at(base: Any, position: Any) -> Any:
        return builder.bitcast(builder.gep(base, [position]), vector.as_pointer())

    a_rows = [further(a, a_row, r) for r in range(rows)]
    b_panels = [further(b, b_panel, p) for p in range(panels)]
    next_panels = [further(panel, b_panel, panels) for panel in b_panels]
    places = [
        vector_at(further(c, c_panel, p), builder.mul(c_row, _INDEX(r)))
        for r in range(rows)
        for p in range(panels)
    ]
    before = [builder.load(place, align=align) for place in places]
    entry = builder.block
    loop, end = builder.append_basic_block("k"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    done, a_at = builder.phi(_INDEX), builder.phi(_INDEX)
    sums = [builder.phi(vector) for _ in places]
    b_at = builder.mul(done, _INDEX(COLUMNS))
    b_values = [builder.load(vector_at(panel, b_at), align=align) for panel in b_panels]
    # The panels after these, one line for each k. Without this a matrix of 16 MB, which lies in the
    # third-level cache, is read at two thirds of the speed; with one row, which leaves no time
    # between two lines, it is in the way.
    for panel in next_panels if rows > 1 else []:
        _emit_prefetch(builder, builder.gep(panel, [b_at]))
    undefined = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), COLUMNS), [0] * COLUMNS)
    after = []
    for r, a_base in enumerate(a_rows):
        value = builder.load(builder.gep(a_base, [a_at]))
        one = builder.insert_element(undefined, value, ir.IntType(32)(0))
        same = builder.shuffle_vector(one, undefined, first)
        for p, b_value in enumerate(b_values):
            after.append(builder.call(multiply_add, [same, b_value, sums[r * panels + p]]))
    done_next, a_next = builder.add(done, _INDEX(1)), builder.add(a_at, a_column)
    for phi, start, new in ((done, _INDEX(0), done_next), (a_at, _INDEX(0), a_next)):
        phi.add_incoming(start, entry)
        phi.add_incoming(new, loop)
    for total, old, new in zip(sums, before, after, strict=True):
        total.add_incoming(old, entry)
        total.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", done_next, k), loop, end)
    builder.position_at_end(end)
    for place, value in zip(places, after, strict=True):
        builder.store(value, place, align=align)


def _sizes() -> Iterator[tuple[int, int]]:
    """Rows and panels of all tiles that are asked for."""
    for rows in range(1, MOST_ROWS + 1):
        most = ABREAST_OF_ONE if rows == 1 else ABREAST_OF_THREE if rows <= 3 else ABREAST
        yield from ((rows, panels) for panels in range(1, most + 1))


def _declare(module: Any, number: Any, name: str) -> Any:
    """A function of LLVM's own that computes a tile.

    Its arguments are the numbers of rows and panels, then three pointers to the first entries: a
    with the distance between its rows and between its columns, b with that between panels, c with
    those between rows and between panels; k between b and c is the common dimension, at least 1.
    """
    entries = number.as_pointer()
    kinds = [_INDEX, _INDEX, entries, _INDEX, _INDEX, entries, _INDEX, _INDEX]
    kind = ir.FunctionType(ir.VoidType(), [_INDEX, _INDEX, entries, *kinds])
    return cgutils.get_or_insert_function(module, kind, name)


def _define(module: Any, number: Any) -> Any:
    """The function with its body: one piece of code for each number of rows and panels."""
    function = _declare(module, number, _NAME.format(number))
    if not function.is_declaration:
        return function
    function.linkage = "linkonce_odr"
    for attribute in ("noinline", "nounwind"):
        function.attributes.add(attribute)
    rows, panels, *args = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    nothing = function.append_basic_block("nothing")
    case = builder.add(builder.mul(panels, _INDEX(MOST_ROWS + 1)), rows)
    switch = builder.switch(case, nothing)
    for high, wide in _sizes():
        block = function.append_basic_block(f"tile_{high}_{wide}")
        switch.add_case(_INDEX(wide * (MOST_ROWS + 1) + high), block)
        builder.position_at_end(block)
        _emit_tile(builder, high, wide, args)
        builder.ret_void()
    builder.position_at_end(nothing)
    builder.ret_void()
    return function


def _tile(
    context: Any,
    rows: Any,
    panels: Any,
    a: Any,
    a_start: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_start: Any,
    b_panel: Any,
    k: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
    c_panel: Any,
) -> Any:
    """One tile: c += a b. Arguments as in ``_declare``, but flat arrays and first indices."""
    index = types.int64
    places = (index, index, index)
    signature = types.void(index, index, a, *places, b, *places, c, *places)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        args = list(args)
        for i in (10, 6, 2):
            data = context.make_array(signature.args[i])(context, builder, args[i]).data
            args[i : i + 2] = [builder.gep(data, [args[i + 1]])]
        number = context.get_value_type(signature.args[2].dtype)
        if number == ir.FloatType():
            function = _declare(builder.module, number, SHARED)
        else:
            function = _define(builder.module, number)
        builder.call(function, args)
        return context.get_dummy_value()

    return signature, generate


def _whole(
    context: Any,
    rows: Any,
    panels: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_panel: Any,
    k: Any,
    c: Any,
    c_row: Any,
    c_panel: Any,
) -> Any:
    """The function of ``_define`` as such."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_value_type(signature.args[2].dtype)
        builder.call(_define(builder.module, number), args)
        return context.get_dummy_value()

    return _WHOLE, generate


_FLOATS = types.CPointer(types.float32)
_WHOLE = types.void(
    *(types.int64, types.int64, _FLOATS, types.int64, types.int64, _FLOATS),
    *(types.int64, types.int64, _FLOATS, types.int64, types.int64),
)


tile: Any = intrinsic(_tile)
whole: Any = intrinsic(_whole)


def _floats(
    rows: Any,
    panels: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_panel: Any,
    k: Any,
    c: Any,
    c_row: Any,
    c_panel: Any,
) -> None:
    whole(rows, panels, a, a_row, a_column, b, b_panel, k, c, c_row, c_panel)


# Of float32 the process has one, under a name that compiled code finds. Within that code it would
# be made again for each function that uses it, and by numba for each that calls such a one: seconds
# when seqtool first runs.

add_symbol(SHARED, callback(_floats, _WHOLE, _NAME.format(ir.FloatType())))


@spliced
def abreast(rows: Any) -> Any:
    """How many panels to take at once with so many rows, of which none is left for another tile."""
    if rows == 1:
        return ABREAST_OF_ONE
    return ABREAST_OF_THREE if rows <= 3 else ABREAST


@spliced
def tile_rows(
    a: Any,
    a_start: Any,
    a_row: Any,
    a_column: Any,
    rows: Any,
    b: Any,
    b_start: Any,
    b_panel: Any,
    panels: Any,
    k: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
    c_panel: Any,
) -> None:
    """Any number of rows times up to ``abreast`` panels, in tiles as equal as can be: c += a b.

    Arguments as in ``_tile``, and the number of rows and of panels.
    """
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    row = 0
    for t in range(tiles):
        height = rows * (t + 1) // tiles - row
        tile(
            height, panels, a, a_start + row * a_row, a_row, a_column,
            b, b_start, b_panel, k, c, c_start + row * c_row, c_row, c_panel,
        )  # fmt: skip
        row += height


@spliced
def product(
    a: Any,
    a_start: Any,
    a_row: Any,
    rows: Any,
    k: Any,
    panels: Any,
    panels_start: Any,
    count: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
) -> None:
    """Add the product of some rows and a packed matrix to c.

    Args:
        a: Flat; ``rows`` rows of k entries, the first at ``a_start``, ``a_row`` apart.
        panels: Flat; (count, k, 16) from ``panels_start`` on.
        c: Flat; ``rows`` rows of 16 count entries, the first at ``c_start``, ``c_row`` apart.
    """
    most = abreast(rows)
    for first in range(0, k, DEEPEST):
        deep = min(DEEPEST, k - first)
        for panel in range(0, count, most):
            here = panels_start + (panel * k + first) * COLUMNS
            tile_rows(
                a, a_start + first, a_row, 1, rows,
                panels, here, k * COLUMNS, min(most, count - panel), deep,
                c, c_start + panel * COLUMNS, c_row, COLUMNS,
            )  # fmt: skip


@inlined
def pack(
    a: Any, a_start: Any, a_row: Any, rows: Any, columns: Any, panels: Any, panel: Any, count: Any
) -> None:
    """Copy some rows of a matrix into panels, zeros in the columns that it does not have.

    Args:
        a: Flat; ``rows`` rows of ``columns`` entries, the first at ``a_start``, ``a_row`` apart.
        panels: Flat; ``count`` panels of (rows, 16), ``panel`` apart; at most those that the
            columns fill or begin.
    """
    whole = min(count, columns // COLUMNS)
    # Row by row, as they lie in memory: panel by panel each row would be on another page.
    for r in range(rows):
        source, target = a_start + r * a_row, r * COLUMNS
        for p in range(whole):
            copy_row(a, source + p * COLUMNS, panels, target + p * panel)
        if whole < count:
            for j in range(COLUMNS):
                column = whole * COLUMNS + j
                panels[target + whole * panel + j] = a[source + column] if column < columns else 0


@inlined
def view(job: Any, field: Any, size: Any, unit: Any) -> Any:
    """The array of ``size`` numbers whose address is in a field of a job."""
    return carray(pointer(job[field], unit), size)
