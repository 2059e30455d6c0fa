"""Matrix products inside compiled code, on matrices cut into panels of sixteen columns.

A recurrent layer multiplies a few rows by a large matrix, once for every time step. BLAS libraries
are made for large times large: at eight to thirty rows they reach half of what a core can do, and
each call pays for packing the matrix again. Here the matrix is packed once, as (N / 16, K, 16), and
a tile of up to six rows and sixteen columns stays in registers through all of K.

Every entry of a product is one chain of multiply-adds in the order of K. So its bits depend neither
on which rows are computed together nor on the number of threads.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from seqtool.compiled import inlined

COLUMNS = 16  # of a panel: two AVX2 registers, one of AVX-512, four of NEON
DEPTH = 128  # rows of a chunk: 8 KB of a panel, a quarter of a first-level cache
MOST_ROWS = 6  # of a tile: twelve of AVX2's sixteen registers hold sums

_INDEX = ir.IntType(64)


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


# numba takes the first argument away.
pointer: Any = intrinsic(_pointer)
claim: Any = intrinsic(_claim)
copy_row: Any = intrinsic(_copy_row)


def _make_tile(rows: int) -> Any:
    """Code for ``rows`` rows of a tile: c += a b.

    Arguments are three flat arrays of one float type, each with the index of its first entry: a
    with the distance between rows and between columns, b one panel, c with the distance between
    rows; k is the common dimension, at least 1.
    """

    def tile(
        context: Any,
        a: Any,
        a_start: Any,
        a_row: Any,
        a_column: Any,
        b: Any,
        b_start: Any,
        k: Any,
        c: Any,
        c_start: Any,
        c_row: Any,
    ) -> Any:
        index = types.int64
        signature = types.void(a, index, index, index, b, index, index, c, index, index)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = {
                i: context.make_array(signature.args[i])(context, builder, args[i]).data
                for i in (0, 4, 7)
            }
            _, a_start, a_row, a_column, _, b_start, k, _, c_start, c_row = args
            number = context.get_value_type(signature.args[0].dtype)
            vector = ir.VectorType(number, COLUMNS)
            name = "f32" if number == ir.FloatType() else "f64"
            align = 4 if name == "f32" else 8
            # fmuladd, not fma: processors without the instruction multiply, then add.
            multiply_add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fmuladd.v{COLUMNS}{name}",
            )
            byte = ir.IntType(8).as_pointer()
            prefetch = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [byte] + [ir.IntType(32)] * 3),
                "llvm.prefetch.p0",
            )

            def at(start: Any, row: Any, r: int) -> Any:
                return builder.add(start, builder.mul(row, _INDEX(r)))

            def vector_at(base: Any, position: Any) -> Any:
                return builder.bitcast(builder.gep(base, [position]), vector.as_pointer())

            a_rows = [builder.gep(arrays[0], [at(a_start, a_row, r)]) for r in range(rows)]
            panel = builder.gep(arrays[4], [b_start])
            c_rows = [vector_at(arrays[7], at(c_start, c_row, r)) for r in range(rows)]
            before = [builder.load(place, align=align) for place in c_rows]
            entry = builder.block
            loop = builder.append_basic_block("k")
            end = builder.append_basic_block("end")
            builder.branch(loop)
            builder.position_at_end(loop)
            done = builder.phi(_INDEX)
            a_at = builder.phi(_INDEX)
            sums = [builder.phi(vector) for _ in range(rows)]
            b_values = builder.load(
                vector_at(panel, builder.mul(done, _INDEX(COLUMNS))), align=align
            )
            # The next panel, one line for each k. Without this a matrix of 16 MB, which lies in
            # the third-level cache, is read at two thirds of the speed.
            ahead = builder.gep(panel, [builder.mul(builder.add(done, k), _INDEX(COLUMNS))])
            hints = [ir.IntType(32)(hint) for hint in (0, 3, 1)]  # to read, keep, data
            builder.call(prefetch, [builder.bitcast(ahead, byte), *hints])
            undefined = ir.Constant(vector, ir.Undefined)
            first = ir.Constant(ir.VectorType(ir.IntType(32), COLUMNS), [0] * COLUMNS)
            after = []
            for a_base, total in zip(a_rows, sums, strict=True):
                value = builder.load(builder.gep(a_base, [a_at]))
                one = builder.insert_element(undefined, value, ir.IntType(32)(0))
                same = builder.shuffle_vector(one, undefined, first)
                after.append(builder.call(multiply_add, [same, b_values, total]))
            done_next = builder.add(done, _INDEX(1))
            a_next = builder.add(a_at, a_column)
            done.add_incoming(_INDEX(0), entry)
            done.add_incoming(done_next, loop)
            a_at.add_incoming(_INDEX(0), entry)
            a_at.add_incoming(a_next, loop)
            for total, old, new in zip(sums, before, after, strict=True):
                total.add_incoming(old, entry)
                total.add_incoming(new, loop)
            builder.cbranch(builder.icmp_signed("<", done_next, k), loop, end)
            builder.position_at_end(end)
            for place, value in zip(c_rows, after, strict=True):
                builder.store(value, place, align=align)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(tile)


_tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6 = map(_make_tile, range(1, MOST_ROWS + 1))


@inlined
def tile_rows(
    a: Any,
    a_start: Any,
    a_row: Any,
    a_column: Any,
    rows: Any,
    b: Any,
    b_start: Any,
    k: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
) -> None:
    """One panel of columns for any number of rows, in tiles as equal as can be: c += a b.

    Arguments as in ``_make_tile``, and the number of rows.
    """
    tiles = (rows + MOST_ROWS - 1) // MOST_ROWS
    row = 0
    for tile in range(tiles):
        height = rows * (tile + 1) // tiles - row
        a_at = a_start + row * a_row
        c_at = c_start + row * c_row
        if height == 6:
            _tile_6(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        elif height == 5:
            _tile_5(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        elif height == 4:
            _tile_4(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        elif height == 3:
            _tile_3(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        elif height == 2:
            _tile_2(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        else:
            _tile_1(a, a_at, a_row, a_column, b, b_start, k, c, c_at, c_row)
        row += height


@inlined
def product(
    a: Any,
    a_start: Any,
    a_row: Any,
    rows: Any,
    k: Any,
    panels: Any,
    count: Any,
    c: Any,
    c_start: Any,
    c_row: Any,
) -> None:
    """Add the product of some rows and a packed matrix to c.

    Args:
        a: Flat; ``rows`` rows of k entries, the first at ``a_start``, ``a_row`` apart.
        panels: Flat (count, k, 16).
        c: Flat; ``rows`` rows of 16 count entries, the first at ``c_start``, ``c_row`` apart.
    """
    for panel in range(count):
        tile_rows(
            *(a, a_start, a_row, 1, rows),
            *(panels, panel * k * COLUMNS, k),
            *(c, c_start + panel * COLUMNS, c_row),
        )


@inlined
def to_chunks(
    a: Any, a_start: Any, a_row: Any, rows: Any, width: Any, chunks: Any, top: Any
) -> None:
    """Copy some rows of a matrix into chunks of it, zeros in the columns that it does not have.

    A chunk is DEPTH rows of the matrix in panels, (panels, DEPTH, 16). What is multiplied together
    thus lies together, and not at distances that fall on the same places of a cache.

    Args:
        a: Flat; ``rows`` rows of ``width`` entries, the first at ``a_start``, ``a_row`` apart.
        chunks: Flat (chunks, panels, DEPTH, 16).
        top: Which row of the matrix the first is.
    """
    count, whole = (width + COLUMNS - 1) // COLUMNS, width // COLUMNS
    done = 0
    while done < rows:
        chunk, first = (top + done) // DEPTH, (top + done) % DEPTH
        here = min(rows - done, DEPTH - first)
        for panel in range(whole):
            source = a_start + done * a_row + panel * COLUMNS
            target = ((chunk * count + panel) * DEPTH + first) * COLUMNS
            for r in range(here):
                copy_row(a, source + r * a_row, chunks, target + r * COLUMNS)
        if whole < count:
            source = a_start + done * a_row + whole * COLUMNS
            target = ((chunk * count + whole) * DEPTH + first) * COLUMNS
            for r in range(here):
                for j in range(COLUMNS):
                    inside = whole * COLUMNS + j < width
                    chunks[target + r * COLUMNS + j] = a[source + r * a_row + j] if inside else 0
        done += here


@inlined
def view(job: Any, field: Any, size: Any, unit: Any) -> Any:
    """The array of ``size`` numbers whose address is in a field of a job."""
    return carray(pointer(job[field], unit), size)
