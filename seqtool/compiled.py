"""Compiling loops with numba: kept between runs where that is possible, announced where not.

numba's own cache asks whether the file of a function has changed, not the files of the functions
it calls, and would rather write into the directory that seqtool is installed in. This one belongs
to the user and to the exact sources.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import types
from numba.core import caching, event
from numba.core.ccallback import CFunc
from numba.core.compiler import Flags
from numba.core.cpu_options import FastMathOptions
from numba.extending import intrinsic

from seqtool.cache import directory
from seqtool.errors import ConfigError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# The modules whose code is in the machine code of the functions that are kept.
SOURCES = (
    *("backoff", "choosing", "compiled", "counting", "hashing", "loops", "memories", "network"),
    *("pointwise", "products", "recurrence", "tiles", "transducer", "transduction", "vectors"),
)

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ConfigError(
        "NUMBA_DISABLE_JIT is set, but what runs here exists as machine code only; unset it"
    )

_callbacks: list[Any] = []  # machine code lives as long as these


def inlined(function: FunctionT) -> FunctionT:
    """A function that compiled ones call, not Python; it becomes part of them."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: Any = numba.njit(nogil=True, **options)(function)
    part: FunctionT = made
    return part


def spliced(function: FunctionT) -> FunctionT:
    """A function whose statements are put in the place of a call, before anything is compiled.

    ``inlined`` ones become machine code of their own first, with all that they call: each level of
    calls above a large piece of code then takes another half second when that is first compiled.
    """
    made: Any = numba.njit(nogil=True, inline="always")(function)
    part: FunctionT = made
    return part


def arithmetic(function: FunctionT) -> FunctionT:
    """A function compiled into those that call it, as vector code.

    So a division by zero is no exception; and multiply and add may become one instruction.
    """
    made: Any = numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")(function)
    kept: FunctionT = made
    return kept


def unaliased(function: FunctionT) -> FunctionT:
    """As ``arithmetic``, for a function that gives nothing and whose arrays do not overlap.

    It is called without keywords.

    Vector code otherwise begins with a comparison of where all its arrays end: with thirteen of
    them that takes longer than the work on a row of a hundred numbers. numba has a flag for it, but
    not in its decorators.
    """

    def typed(context: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            flags: Any = Flags()
            flags.noalias, flags.forceinline, flags.error_model = True, True, "numpy"
            flags.fastmath = FastMathOptions({"contract"})
            made = context.compile_subroutine(builder, function, signature, flags=flags)
            return context.call_internal(builder, made.fndesc, signature, values)

        return types.void(*arguments), generate

    own = inspect.signature(function)
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    about: Any = typed
    about.__name__, about.__doc__ = function.__name__, function.__doc__  # for numba's errors
    # numba cannot call what takes any number of arguments.
    about.__signature__ = own.replace(parameters=[context, *own.parameters.values()])
    made: Any = intrinsic(typed)
    part: FunctionT = made
    return part


def compiled(function: FunctionT) -> FunctionT:
    """The function as machine code, made at its first call; it runs without Python's lock.

    The code is kept in NUMBA_CACHE_DIR or the user's cache directory. If that cannot be written,
    it is made anew in each run.
    """
    made: Any = numba.njit(nogil=True)(function)
    with suppress(OSError, RuntimeError):  # no place for it; the sources are no files
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]
    kept: FunctionT = made
    return kept


def callback(function: Callable[..., None], signature: Any, name: str | None = None) -> int:
    """The address of the function as machine code that C can call; compiled now, kept as above.

    Divisions by zero are not looked for, and multiply and add may become one instruction.

    Args:
        function: Its closure may hold numbers.
        signature: numba's, with the result.
        name: Of a function in its machine code whose address is wanted instead.
    """
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    made: Any = CFunc(function, (signature.args, signature.return_type), {}, options)
    with suppress(OSError, RuntimeError):  # as above
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]
    made.compile()
    _callbacks.append(made)
    address: int = made._library.get_pointer_to_function(name) if name else made.address
    return address


def cache_directory() -> Path:
    """Where machine code is kept."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return Path(chosen) / "seqtool" if chosen else directory()


@cache
def _fingerprint() -> str:
    """Names the sources of all that is compiled."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


class _Locator(caching._CacheLocator):
    """Tells numba where a function's machine code is and for which sources it holds."""

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return _fingerprint()

    def get_disambiguator(self) -> str:
        return _fingerprint()[:8]

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        locator = cls()
        locator.ensure_cache_path()  # type: ignore[no-untyped-call]
        return locator


class _Results(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # type: ignore[list-item]  # noqa: RUF012


class _Cache(caching.FunctionCache):
    _impl_class = _Results

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code; without room for it, do without."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError:
            self.disable()  # type: ignore[no-untyped-call]


class _Listener(event.Listener):
    """Hears of everything that is compiled, and speaks of the first."""

    def __init__(self, say: Callable[[], None]) -> None:
        self.say: Callable[[], None] | None = say

    def on_start(self, event: Any) -> None:
        if self.say:
            self.say()
            self.say = None

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def announced(say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` if anything has to be compiled meanwhile, before it is."""
    with event.install_listener("numba:compile", _Listener(say)):
        yield
