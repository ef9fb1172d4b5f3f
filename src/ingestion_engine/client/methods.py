"""Methods that are described once, for a blocking and for an asynchronous client."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from ingestion_engine.client.steps import Items, Steps

P = ParamSpec("P")
T = TypeVar("T")

_STEPS = re.compile(r"^(?:Steps|Items)\[(.*)\]$")
"""What a described method returns, as its signature writes it."""


class Blocking:
    """A client whose methods return when they are done."""

    def __init_subclass__(cls) -> None:
        bind_methods(cls, run=cls._run, iterate=cls._iterate)

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def _iterate(self, items: Items[T]) -> Generator[T, None, None]:
        raise NotImplementedError


class Asynchronous:
    """A client whose methods are awaited."""

    def __init_subclass__(cls) -> None:
        bind_methods(cls, run=cls._run, iterate=cls._iterate)

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def _iterate(self, items: Items[T]) -> AsyncGenerator[T, None]:
        raise NotImplementedError


class Method(Generic[P, T]):
    """A method that returns a value: ``Callable[P, T]`` of a blocking client, awaitable of an asynchronous one.

    Args:
        describe: Function that returns the steps; it has the signature and the documentation of the method.
        operations: Ids of the operations of the OpenAPI that the method calls.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Steps[T]], operations: tuple[str, ...]) -> None:
        self.describe = describe
        self.operations = operations

    if TYPE_CHECKING:  # at run time each client has functions in place of these, see ``bind_methods``

        @overload
        def __get__(self, client: None, owner: type) -> Self: ...
        @overload
        def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: Asynchronous, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
        def __get__(self, client: Blocking | Asynchronous | None, owner: type) -> Any: ...

    def bind(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of a client, given the function that performs its steps."""
        describe: Any = self.describe
        if inspect.iscoroutinefunction(run):

            @functools.wraps(describe)
            async def call_async(client: Any, *args: Any, **kwargs: Any) -> Any:
                return await run(client, describe(client, *args, **kwargs))

            return _signed(call_async, returns=r"\1")

        @functools.wraps(describe)
        def call(client: Any, *args: Any, **kwargs: Any) -> Any:
            return run(client, describe(client, *args, **kwargs))

        return _signed(call, returns=r"\1")


class Iteration(Generic[P, T]):
    """A method that is iterated: a generator of a blocking client, an asynchronous generator of the other one.

    Args:
        describe: Function that returns the steps and items; it has the signature and the documentation of the method.
        operations: Ids of the operations of the OpenAPI that the method calls.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Items[T]], operations: tuple[str, ...]) -> None:
        self.describe = describe
        self.operations = operations

    if TYPE_CHECKING:

        @overload
        def __get__(self, client: None, owner: type) -> Self: ...
        @overload
        def __get__(self, client: Blocking, owner: type) -> Callable[P, Generator[T, None, None]]: ...
        @overload
        def __get__(self, client: Asynchronous, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
        def __get__(self, client: Blocking | Asynchronous | None, owner: type) -> Any: ...

    def bind(self, iterate: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of a client, given the function that performs its steps."""
        describe: Any = self.describe

        @functools.wraps(describe)
        def call(client: Any, *args: Any, **kwargs: Any) -> Any:
            return iterate(client, describe(client, *args, **kwargs))

        return _signed(call, returns=r"AsyncIterator[\1]" if inspect.isasyncgenfunction(iterate) else r"Iterator[\1]")


def method(*operations: str) -> Callable[[Callable[Concatenate[Any, P], Steps[T]]], Method[P, T]]:
    """Return a decorator that makes a method of a function that returns its steps."""
    return lambda describe: Method(describe, operations)


def iteration(*operations: str) -> Callable[[Callable[Concatenate[Any, P], Items[T]]], Iteration[P, T]]:
    """Return a decorator that makes a method that is iterated of a function that returns its steps and items."""
    return lambda describe: Iteration(describe, operations)


def bind_methods(client: type, *, run: Callable[..., Any], iterate: Callable[..., Any]) -> None:
    """Give a class functions in place of the methods and iterations that it inherits."""
    for name in dir(client):
        described = inspect.getattr_static(client, name)
        if isinstance(described, Method):
            setattr(client, name, described.bind(run))
        elif isinstance(described, Iteration):
            setattr(client, name, described.bind(iterate))


def _signed(function: Callable[..., Any], *, returns: str) -> Callable[..., Any]:
    """Return a function whose signature names what it returns instead of its steps."""
    signature = inspect.signature(function)
    shown = _STEPS.sub(returns, str(signature.return_annotation))
    function.__dict__["__signature__"] = signature.replace(return_annotation=shown)
    function.__annotations__ = {**function.__annotations__, "return": shown}
    return function
