"""Rewrites one file of Metal Shading Language to C++ for the host.

Clang's preprocessor expands macros and includes; what is left is tokens, which are rewritten one by one, so that
lines stay where they are and every message names the place in the ``.metal`` file. This module knows Metal's grammar as
far as it differs from C++: attributes, kernels, address spaces, function constants, threadgroup variables, literals. It
knows nothing of how the result is compiled or run, and refuses what Apple's compiler would refuse and C++ would not.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import CompileError, Diagnostic

MAX_BUFFERS = 31
ADDRESS_SPACES = {"device", "constant", "threadgroup", "thread"}

#: Attributes of kernel parameters: the expression of their value, and whether they are positions (1 to 3 components).
POSITIONS = {
    "thread_position_in_grid": "position_in_grid(a)",
    "threadgroup_position_in_grid": "a.group->position",
    "thread_position_in_threadgroup": "a.thread->position",
    "threads_per_threadgroup": "a.group->size",
    "dispatch_threads_per_threadgroup": "a.group->dispatched_size",
    "threads_per_grid": "a.group->grid",
    "threadgroups_per_grid": "a.group->groups",
}
INDICES = {
    "thread_index_in_threadgroup": "a.thread->index",
    "thread_index_in_simdgroup": "a.thread->lane",
    "simdgroup_index_in_threadgroup": "a.thread->simdgroup",
    "threads_per_simdgroup": "kSimdWidth",
    "thread_execution_width": "kSimdWidth",
    "simdgroups_per_threadgroup": "a.group->simdgroups",
}
#: Attributes that change nothing here.
IGNORED_ATTRIBUTES = {"unroll", "likely", "unlikely", "maybe_unused", "nodiscard", "fallthrough", "always_inline"}

#: Words that C++ has and Metal has not.
FORBIDDEN = {
    "double": "Metal has no double",
    "new": "Metal has no operator new",
    "delete": "Metal has no operator delete",
    "throw": "Metal has no exceptions",
    "try": "Metal has no exceptions",
    "catch": "Metal has no exceptions",
    "virtual": "Metal has no virtual functions",
    "dynamic_cast": "Metal has no run-time type information",
    "typeid": "Metal has no run-time type information",
    "goto": "Metal has no goto",
    "thread_local": "Metal has no thread_local",
    "std": "the C++ standard library is not available; use metal::",
    "asm": "Metal has no inline assembly",
    "standin": "this name belongs to the stand-in",
    "texture2d": "textures are not supported by the stand-in",
    "sampler": "samplers are not supported by the stand-in",
}

_TOKEN = re.compile(
    r"""(?P<marker>^\#[^\n]*$)
      |(?P<space>[ \t\r\f\v]+|\n)
      |(?P<string>(?:u8|[uUL])?"(?:\\.|[^"\\])*")
      |(?P<character>'(?:\\.|[^'\\])*')
      |(?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
      |(?P<word>[A-Za-z_]\w*)
      |(?P<operator>\[\[|::|->|<<=|<<|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|.)""",
    re.X | re.M,
)
_MARKER = re.compile(r'#\s*(?:line\s+)?(\d+)\s+"((?:[^"\\]|\\.)*)"')
_DECIMAL = re.compile(r"((?:\d[\d']*\.?[\d']*|\.\d[\d']*)(?:[eE][-+]?\d+)?)(bf|BF|[hHfF])?")
_HEXADECIMAL_FLOAT = re.compile(r"(0[xX][\da-fA-F.']+[pP][-+]?\d+)([hHfF])?")


class Token(NamedTuple):
    """One lexical element, and where the preprocessor says that it came from."""

    kind: str
    text: str
    file: str
    line: int

    @property
    def blank(self) -> bool:
        """Whether the grammar does not see it."""
        return self.kind in ("space", "marker")


class Attribute(NamedTuple):
    """One ``[[name(argument)]]``."""

    name: str
    argument: str
    token: Token


@dataclass
class Parameter:
    """One parameter of a kernel."""

    name: str
    attributes: dict[str, Attribute]
    token: Token


@dataclass
class KernelSource:
    """A kernel function or function template, as far as its wrapper needs to know it."""

    name: str
    token: Token
    parameters: list[Parameter]
    max_threads: str = "1024"


@dataclass
class Instance:
    """One entry point: a kernel under the name by which the host asks for it."""

    host_name: str
    expression: str
    kernel: str
    token: Token


@dataclass
class FunctionConstant:
    """A constant whose value comes with the launch."""

    index: int
    name: str


@dataclass
class Translation:
    """A translated file."""

    code: str
    instances: list[Instance]
    constants: list[FunctionConstant]
    kernels: dict[str, KernelSource] = field(default_factory=dict)


def tokenize(text: str) -> list[Token]:
    """Split preprocessed source, following its line markers."""
    tokens, line, file = [], 1, ""
    for match in _TOKEN.finditer(text):
        kind, part = str(match.lastgroup), match.group()
        if kind == "marker" and (marker := _MARKER.match(part)):
            line, file = int(marker[1]) - 1, marker[2]
        tokens.append(Token(kind, part, file, line))
        line += part.count("\n")
    return tokens


def visible(tokens: list[Token]) -> list[Token]:
    """Return the tokens that the grammar sees."""
    return [t for t in tokens if not t.blank]


def join(tokens: list[Token]) -> str:
    """Return tokens as text on one line."""
    return " ".join(t.text for t in tokens if not t.blank)


def depth(token: Token) -> int:
    """Return by how much a token changes the depth of brackets."""
    if token.kind != "operator":
        return 0
    return {"[[": 2, "(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)


def closing(tokens: list[Token], start: int) -> int:
    """Return the position of the bracket that closes the one at `start`."""
    level = 0
    for i in range(start, len(tokens)):
        level += depth(tokens[i])
        if level == 0:
            return i
    raise CompileError([Diagnostic(tokens[start].file, tokens[start].line, f"'{tokens[start].text}' is never closed")])


def closing_angle(tokens: list[Token], start: int) -> int:
    """Return the position of the ``>`` that closes the ``<`` at `start`."""
    level = inner = 0
    for i in range(start, len(tokens)):
        inner += depth(tokens[i])
        if inner == 0:
            level += (tokens[i].text == "<") - (tokens[i].text == ">")
            if level == 0:
                return i
    raise CompileError([Diagnostic(tokens[start].file, tokens[start].line, "'<' is never closed")])


def split(tokens: list[Token]) -> list[list[Token]]:
    """Split at the commas outside of all brackets."""
    parts: list[list[Token]] = [[]]
    level = angle = 0
    for token in tokens:
        level += depth(token)
        if level == 0 and token.kind == "operator":
            angle = max(0, angle + (token.text == "<") - (token.text == ">"))
        if token.text == "," and level == 0 and angle == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [p for p in parts if visible(p)]


def without_template(head: list[Token]) -> list[Token]:
    """Drop the leading ``template <...>`` of a declaration of visible tokens."""
    i = 0
    while i + 1 < len(head) and head[i].text == "template" and head[i + 1].text == "<":
        i = closing_angle(head, i + 1) + 1
    return head[i:]


def take_attributes(tokens: list[Token]) -> tuple[list[Token], list[Attribute]]:
    """Separate ``[[...]]`` from everything else; newlines inside stay, so that lines keep their numbers."""
    kept: list[Token] = []
    attributes: list[Attribute] = []
    i = 0
    while i < len(tokens):
        if tokens[i].text != "[[":
            kept.append(tokens[i])
            i += 1
            continue
        end = closing(tokens, i)
        for part in split(tokens[i + 1 : end - 1]):
            words = visible(part)
            name = words[2] if len(words) > 2 and words[1].text == "::" else words[0]
            opening = next((k for k, t in enumerate(words) if t.text == "("), None)
            attributes.append(Attribute(name.text, join(words[opening + 1 : -1]) if opening is not None else "", name))
        kept += [t for t in tokens[i : end + 1] if "\n" in t.text]
        i = end + 1
    return kept, attributes


def parameter_list(head: list[Token]) -> tuple[int, int] | None:
    """Return where the parentheses of a function's parameters open and close in `head` (visible tokens)."""
    i = angle = 0
    while i < len(head):
        text = head[i].text
        if text == "[[":
            i = closing(head, i)
        elif text in ("decltype", "__attribute__", "alignas") and i + 1 < len(head) and head[i + 1].text == "(":
            i = closing(head, i + 1)
        elif text == "operator":
            i += 1
            if i + 1 < len(head) and head[i].text == "(":  # operator()
                i += 1
            while i + 1 < len(head) and head[i + 1].text != "(":
                i += 1
        elif text == "(" and angle == 0:
            return i, closing(head, i)
        elif head[i].kind == "operator":
            angle = max(0, angle + (text == "<") - (text == ">"))
        i += 1
    return None


class Rewriter:
    """Translates the tokens of one preprocessed file."""

    #: Whether address spaces are kept: the address-space lint wants them, the host compiler does not.
    keep_address_spaces = False

    def __init__(self, preprocessed: str) -> None:
        self.tokens = tokenize(preprocessed)
        self.out: list[str] = []
        self.diagnostics: list[Diagnostic] = []
        self.kernels: dict[str, KernelSource] = {}
        self.instances: list[Instance] = []
        self.constants: list[FunctionConstant] = []
        self.derived: list[str] = []
        self.words: dict[str, set[str]] = {}  # per function: the identifiers that it and its overloads mention
        self.calls: dict[str, list[set[str]]] = {}  # per function name: what each definition calls
        self.positions: dict[str, Token] = {}
        self.tested: set[str] = set()  # function constants asked for with is_function_constant_defined
        self.variables = 0

    def translate(self) -> Translation:
        """Return the C++ of the whole file, or raise `CompileError` with everything that was found."""
        self.scope(self.tokens)
        self.check_recursion()
        code = "".join(self.out)
        if not self.diagnostics:
            code += self.registration()
        if self.diagnostics:
            raise CompileError(self.diagnostics)
        return Translation(code, self.instances, self.constants, self.kernels)

    def error(self, token: Token, message: str) -> None:
        """Note a complaint; translation goes on, so that one run finds them all."""
        self.diagnostics.append(Diagnostic(token.file, token.line, message))

    def check_recursion(self) -> None:
        """Refuse functions that come back to themselves; overloads and templates may only seem to."""
        single = {name: calls[0] for name, calls in self.calls.items() if len(calls) == 1}
        for name in single:
            reached: set[str] = set()
            waiting = list(single[name])
            while waiting:
                callee = waiting.pop()
                if callee in single and callee not in reached:
                    reached.add(callee)
                    waiting += single[callee]
            if name in reached:
                self.error(self.positions[name], f"function {name} is recursive")

    # ---------------------------------------------------------------- declarations

    def scope(self, tokens: list[Token]) -> None:
        """Translate the declarations of a file or a namespace."""
        i = 0
        while i < len(tokens):
            if tokens[i].blank:
                self.out.append(tokens[i].text)
                i += 1
                continue
            end, body = self.declaration_end(tokens, i)
            if body is None:
                self.declaration(tokens[i : end + 1])
            elif tokens[i].text in ("namespace", "extern", "inline") and self.opens_scope(tokens[i:body]):
                self.emit(tokens[i : body + 1])
                self.scope(tokens[body + 1 : end])
                self.out.append("}")
            else:
                self.function(tokens[i:body], tokens[body : end + 1])
            i = end + 1

    @staticmethod
    def opens_scope(head: list[Token]) -> bool:
        """Return whether what follows are declarations: of a namespace, or of extern "C"."""
        words = [t.text for t in visible(head)]
        return "namespace" in words or (words[0] == "extern" and len(words) == 2)

    def declaration_end(self, tokens: list[Token], start: int) -> tuple[int, int | None]:
        """Return where a declaration ends and, if it has a body of code or declarations, where that opens."""
        i = start
        while i < len(tokens):
            text = tokens[i].text
            if tokens[i].kind == "operator" and text in ("[[", "(", "["):
                i = closing(tokens, i)
            elif tokens[i].kind == "operator" and text == "{":
                head = without_template(visible(tokens[start:i]))
                plain = visible(take_attributes(head)[0])
                words = [t.text for t in plain]
                end = closing(tokens, i)
                if self.opens_scope(tokens[start:i]):
                    return end, i
                if words and words[0] not in ("struct", "class", "union", "enum") and parameter_list(head):
                    before = words[: words.index("(")] if "(" in words else words
                    if "=" not in before or "operator" in before:
                        return end, i
                i = end
            elif text == ";":
                return i, None
            i += 1
        return len(tokens) - 1, None

    def function(self, head: list[Token], body: list[Token]) -> None:
        """Translate a function with its body."""
        shown = without_template(visible(head))
        parentheses = parameter_list(shown)
        assert parentheses is not None
        opening, end = parentheses
        _, attributes = take_attributes(shown[:opening])
        plain, _ = take_attributes(head)
        is_kernel = "kernel" in {a.name for a in attributes} or any(t.text == "kernel" for t in shown[:opening])
        name = shown[opening - 1]
        mentioned = self.words.setdefault(name.text, set())
        if not any(t.text == "template" for t in visible(head)[:1]):
            code = visible(body)
            called = {
                t.text for t, after in itertools.pairwise(code) if t.kind == "word" and after.text == "("
            }
            self.calls.setdefault(name.text, []).append(called)
            self.positions[name.text] = name
        mentioned.update(t.text for t in [*shown[opening:], *body] if t.kind == "word")
        if is_kernel:
            self.kernel(name, shown[opening + 1 : end], attributes, visible(head)[0].text == "template")
        else:
            for part in split(shown[opening + 1 : end]):
                self.check_pointer(visible(take_attributes(part)[0]))
        self.emit([t for t in plain if t.text != "kernel"])
        self.body(body, is_kernel)

    def check_pointer(self, words: list[Token]) -> None:
        """Refuse a pointer or reference parameter without an address space."""
        texts = [t.text for t in words]
        if "=" in texts:
            texts = texts[: texts.index("=")]
        if {"*", "&"} & set(texts) and not ADDRESS_SPACES & set(texts):
            self.error(words[0], f"parameter '{' '.join(texts)}' needs an address space")

    def check_declared_pointers(self, words: list[Token], members: bool = False) -> None:
        """Refuse pointers and references without an address space in declarations and casts inside of `words`.

        ``T *p =`` at the beginning of a statement, ``T *p;`` among the members of a struct, ``(T *)x`` and ``<T *>``
        are declarations or casts whatever T is; other uses of ``*`` and ``&`` are left to the address-space lint.
        """
        for i, token in enumerate(words):
            if token.kind != "operator" or token.text not in ("*", "&") or i + 1 >= len(words):
                continue
            begin = i
            while begin and (words[begin - 1].kind == "word" or words[begin - 1].text in ("*", "::")):
                begin -= 1
            if begin and words[begin - 1].text == ">":  # T<...> *
                angle = begin - 1
                while angle and words[angle].text not in ("<", ";", "{", "}"):
                    angle -= 1
                begin = angle - 1 if words[angle].text == "<" else begin
                while begin > 0 and (words[begin - 1].kind == "word" or words[begin - 1].text == "::"):
                    begin -= 1
            head = {t.text for t in words[begin:i]}
            if begin == i or head & (ADDRESS_SPACES | {"auto", "return", "else", "case", "sizeof", "operator"}):
                continue
            before = words[begin - 1].text if begin else ";"
            after = [t.text for t in words[i + 1 : i + 3]]
            named = len(after) == 2 and words[i + 1].kind == "word" and before in (";", "{", "}", "(", ":")
            declares = named and (after[1] == "=" or (members and after[1] == ";" and token.text == "*"))
            casts = token.text == "*" and ((before == "(" and after[0] == ")") or (before == "<" and after[0] == ">"))
            if declares or casts:
                self.error(words[begin], f"pointer or reference '{join(words[begin : i + 1])}' needs an address space")

    def kernel(self, name: Token, inside: list[Token], attributes: list[Attribute], template: bool) -> None:
        """Note a kernel and its parameters."""
        if name.text in self.kernels:
            self.error(name, f"kernel {name.text} is overloaded; entry points need names of their own")
        kernel = self.kernels[name.text] = KernelSource(name.text, name, [])
        taken: dict[tuple[str, str], str] = {}
        for part in split(inside):
            words, given = take_attributes(part)
            words = visible(words)
            self.check_pointer(words)
            parameter = Parameter(words[-1].text, {a.name: a for a in given}, words[0])
            kernel.parameters.append(parameter)
            known = {"buffer", "threadgroup", "function_constant"} | set(POSITIONS) | set(INDICES) | IGNORED_ATTRIBUTES
            for attribute in given:
                if attribute.name not in known:
                    self.error(attribute.token, f"attribute [[{attribute.name}]] is not supported")
            roles = [a for a in given if a.name in known - {"function_constant"} - IGNORED_ATTRIBUTES]
            if len(roles) != 1:
                self.error(words[0], f"parameter '{parameter.name}' of kernel {name.text} needs exactly one of "
                                     "[[buffer(n)]], [[threadgroup(n)]] and the position attributes")  # fmt: skip
                continue
            role = roles[0]
            if role.name in ("buffer", "threadgroup"):
                if not role.argument.isdigit() or int(role.argument) >= MAX_BUFFERS:
                    self.error(role.token, f"[[{role.name}]] takes an index from 0 to {MAX_BUFFERS - 1}")
                spaces = ADDRESS_SPACES & {t.text for t in words}
                allowed = {"device", "constant"} if role.name == "buffer" else {"threadgroup"}
                if not spaces <= allowed or not spaces:
                    self.error(words[0], f"parameter '{parameter.name}': a [[{role.name}]] parameter is in "
                                         f"{' or '.join(sorted(allowed))} memory")  # fmt: skip
            key = (role.name, role.argument)
            if key in taken:
                self.error(role.token, f"[[{role.name}{f'({role.argument})' if role.argument else ''}]] is taken by "
                                       f"parameter '{taken[key]}'")  # fmt: skip
            taken[key] = parameter.name
        for attribute in attributes:
            if attribute.name == "max_total_threads_per_threadgroup":
                kernel.max_threads = attribute.argument
            elif attribute.name not in {"kernel", "host_name"} | IGNORED_ATTRIBUTES:
                self.error(attribute.token, f"attribute [[{attribute.name}]] is not supported")
        if not template:
            host = next((a.argument for a in attributes if a.name == "host_name"), f'"{name.text}"')
            self.instances.append(Instance(host.strip('"'), name.text, name.text, name))

    def declaration(self, tokens: list[Token]) -> None:
        """Translate a declaration without a body of code."""
        words = visible(tokens)
        texts = [t.text for t in words]
        if texts[0] == "template" and texts[1] != "<" and self.instantiation(tokens):
            return
        plain, attributes = take_attributes(tokens)
        shown = visible(plain)
        names = {a.name for a in attributes}
        texts = [t.text for t in shown]
        if "function_constant" in names and texts[0] == "constant":
            self.function_constant(shown, next(a for a in attributes if a.name == "function_constant"), tokens)
            return
        if texts[0] == "constant" and self.derived_constant(shown, tokens):
            return
        kinds = ("using", "typedef", "struct", "enum", "union", "class", "template", "static_assert", "inline", ";",
                 "namespace", "extern")  # fmt: skip
        if texts[0] not in kinds and "(" not in texts and "constant" not in texts:
            self.error(shown[0], "variables at program scope must be in the constant address space")
        if {"struct", "class", "union"} & {t.text for t in without_template(shown)[:1]}:
            self.check_declared_pointers(shown, members=True)
        elif "threadgroup" in texts[:1]:
            self.error(shown[0], "threadgroup variables can only be declared in kernel functions")
        self.emit(plain)

    def instantiation(self, tokens: list[Token]) -> bool:
        """Translate ``template [[host_name(...)]] [[kernel]] ...;``; return whether it was one."""
        plain, attributes = take_attributes(tokens)
        shown = [t for t in visible(plain) if t.text != "kernel"]
        hosts = [a.argument for a in attributes if a.name == "host_name"]
        if not hosts and "kernel" not in {a.name for a in attributes} and not any(t.text == "kernel" for t in tokens):
            return False
        i, found = 1, None
        while i < len(shown):
            if shown[i].text == "(":
                break
            if shown[i].text == "decltype":
                i = closing(shown, i + 1) + 1
                continue
            if shown[i].kind == "word" and i + 1 < len(shown) and shown[i + 1].text == "<":
                end = closing_angle(shown, i + 1)
                found = (i, end)
                i = end
            i += 1
        if found is None:
            self.error(shown[0], "the instantiation of a kernel needs explicit template arguments")
            return True
        name = shown[found[0]]
        host = hosts[0].strip('"') if hosts else name.text
        self.instances.append(Instance(host, join(shown[found[0] : found[1] + 1]), name.text, name))
        # The parameters of the instantiation are compiled too: they must be those of the template.
        self.emit([t for t in plain if t.text != "kernel"])
        return True

    def function_constant(self, shown: list[Token], attribute: Attribute, tokens: list[Token]) -> None:
        """Translate ``constant T name [[function_constant(i)]];``."""
        name = shown[-2]
        if not attribute.argument.isdigit():
            self.error(attribute.token, "[[function_constant]] takes a literal index")
            return
        if any(t.text == "=" for t in shown):
            self.error(name, f"function constant {name.text} cannot have an initialiser")
        index = int(attribute.argument)
        if any(c.index == index for c in self.constants):
            self.error(attribute.token, f"function constant {index} is declared twice")
        self.constants.append(FunctionConstant(index, name.text))
        self.out.append(f"static {join(shown[1:-2])} {name.text};" + self.newlines(tokens))

    def derived_constant(self, shown: list[Token], tokens: list[Token]) -> bool:
        """Translate a constant computed from function constants; return whether it was one."""
        texts = [t.text for t in shown]
        known = {c.name for c in self.constants} | set(self.derived)
        if "=" not in texts or not known & set(texts[texts.index("=") :]):
            return False
        equals = texts.index("=")
        name = texts[equals - 1]
        kind = " ".join(t for t in texts[1 : equals - 1] if t not in ("constexpr", "const"))
        value = join(shown[equals + 1 : -1])
        self.words[name] = {t.text for t in shown[equals:] if t.kind == "word"}
        self.note_tested(shown)
        self.derived.append(name)
        self.out.append(f"static {kind} {name}; static void derive_{name}_() {{ {name} = {value}; }}")
        self.out.append(self.newlines(tokens))
        return True

    @staticmethod
    def newlines(tokens: list[Token]) -> str:
        """Return the line breaks among the tokens, so that what follows keeps its line."""
        return "".join("\n" * t.text.count("\n") for t in tokens if t.blank)

    # ---------------------------------------------------------------- tokens

    def note_tested(self, tokens: list[Token]) -> None:
        """Note which function constants the code asks about; those may be left out."""
        for i, token in enumerate(tokens):
            if token.text == "is_function_constant_defined" and i + 2 < len(tokens):
                self.tested.add(tokens[i + 2].text)

    def rewritten(self, token: Token) -> str:
        """Return the C++ of one token."""
        text = token.text
        if token.kind == "word":
            if text in FORBIDDEN or text.startswith(("__builtin_", "standin_")):
                self.error(token, f"'{text}': {FORBIDDEN.get(text, 'builtins are not available')}")
            if self.keep_address_spaces:
                return text
            if text == "constant":
                return "const"
            return "" if text in ADDRESS_SPACES else text
        if token.kind == "number":
            return self.literal(text)
        return text

    @staticmethod
    def literal(text: str) -> str:
        """Return a literal with the type that Metal gives it: unsuffixed ones are float, h is half, bf is bfloat."""
        match = _HEXADECIMAL_FLOAT.fullmatch(text) if text[:2].lower() == "0x" else _DECIMAL.fullmatch(text)
        if not match:
            return text
        digits, suffix = match[1], (match[2] or "").lower()
        if suffix in ("h", "bf"):
            number = digits if re.search(r"[.eEpP]", digits) else digits + ".0"
            return f"{'half' if suffix == 'h' else 'bfloat'}({number}f)"
        if not suffix and re.search(r"[.eEpP]", digits):
            return text + "f"
        return text

    def emit(self, tokens: list[Token]) -> None:
        """Write tokens out, rewritten."""
        self.out.extend(self.rewritten(t) for t in tokens)

    def body(self, tokens: list[Token], is_kernel: bool) -> None:
        """Translate the code of a function."""
        plain, _ = take_attributes(tokens)
        self.note_tested(visible(plain))
        self.check_declared_pointers(visible(plain))
        i, statement_begins = 0, True
        while i < len(plain):
            token = plain[i]
            if token.blank:
                self.out.append(token.text)
                i += 1
                continue
            if statement_begins and token.text in ("threadgroup", "volatile"):
                end = next(k for k in range(i, len(plain)) if plain[k].text == ";")
                if self.threadgroup_variables(plain[i:end], is_kernel):
                    i = end + 1
                    continue
            self.out.append(self.rewritten(token))
            statement_begins = token.text in (";", "{", "}", ")")
            i += 1

    def threadgroup_variables(self, tokens: list[Token], is_kernel: bool) -> bool:
        """Translate ``threadgroup T a[n], b;`` to references into the group's memory; return whether it was that."""
        words = visible(tokens)
        if not any(t.text == "threadgroup" for t in words[:2]):
            return False
        shown = [t for t in words if t.text not in ("threadgroup", "volatile")]
        declarators = split(shown)
        first = declarators[0]
        level = angle = 0
        for token in first:
            if token.text in ("[", "="):
                break
            level += depth(token)
            angle += (token.text == "<") - (token.text == ">")
            if level == 0 and angle == 0 and token.text in ("*", "&"):
                return False  # a pointer to threadgroup memory, which is a variable of the thread
        if not is_kernel:
            self.error(words[0], "threadgroup variables can only be declared in kernel functions")
        if any(t.text == "=" for t in shown):
            self.error(words[0], "threadgroup variables cannot have an initialiser")
        if self.keep_address_spaces:
            self.out.append(self.threadgroup_pointer(declarators) + self.newlines(tokens))
            return True
        type_name, statements = "", []
        for k, part in enumerate(declarators):
            bracket = next((j for j, t in enumerate(part) if t.text == "["), len(part))
            name = part[bracket - 1].text
            if k == 0:
                type_name = " ".join(self.rewritten(t) for t in part[: bracket - 1])
            extents = "".join(self.rewritten(t) for t in part[bracket:])
            self.variables += 1
            unique = f"{name}_{self.variables}_"
            statements.append(
                f"typedef {type_name} type_{unique}{extents}; static char site_{unique}; "
                f'type_{unique} &{name} = standin::threadgroup_variable<type_{unique}>(&site_{unique}, "{name}");'
            )
        self.out.append(" ".join(statements) + self.newlines(tokens))
        return True

    def threadgroup_pointer(self, declarators: list[list[Token]]) -> str:
        """Return threadgroup variables as references to no memory, which keeps their address space."""
        type_name, statements = "", []
        for k, part in enumerate(declarators):
            bracket = next((j for j, t in enumerate(part) if t.text == "["), len(part))
            name = part[bracket - 1].text
            if k == 0:
                type_name = join(part[: bracket - 1])
            extents = "".join(t.text for t in part[bracket:])
            statements.append(f"threadgroup {type_name} (&{name}){extents} = *(threadgroup {type_name} (*){extents})0;")
        return " ".join(statements)

    # ---------------------------------------------------------------- wrappers

    def required_constants(self, kernel: str) -> list[int]:
        """Return the function constants that a kernel reads, itself or through what it calls."""
        reached, waiting = set(), [kernel]
        while waiting:
            word = waiting.pop()
            if word not in reached:
                reached.add(word)
                waiting += self.words.get(word, ())
        return [c.index for c in self.constants if c.name in reached and c.name not in self.tested]

    def registration(self) -> str:
        """Return the code that makes the kernels known to the executor."""
        lines = ['\n#line 1 "<wrappers>"', "namespace standin { Module module_{kInterfaceVersion, STANDIN_CHECKED}; }"]
        lines.append("namespace standin::wrappers {")
        for n, constant in enumerate(self.constants):
            lines.append(f'static RegisterConstant c{n}({constant.index}, "{constant.name}", &::{constant.name});')
        calls = " ".join(f"::derive_{name}_();" for name in self.derived)
        lines.append(f"static const bool derives = (module_.derive = [] {{ {calls} }}, true);")
        hosts: dict[str, Token] = {}
        for n, instance in enumerate(self.instances):
            if instance.kernel not in self.kernels:
                self.error(instance.token, f"{instance.kernel} is not a kernel of this file")
                continue
            if instance.host_name in hosts:
                self.error(instance.token, f'the host name "{instance.host_name}" is taken')
            hosts[instance.host_name] = instance.token
            lines.append(self.wrapper(n, instance))
        lines += ["}", 'extern "C" __attribute__((visibility("default"))) standin::Module *standin_module() '
                       "{ return &standin::module_; }", ""]  # fmt: skip
        return "\n".join(lines)

    def wrapper(self, n: int, instance: Instance) -> str:
        """Return the wrapper of one entry point."""
        kernel = self.kernels[instance.kernel]
        arguments, descriptions, positions = [], [], []
        for i, parameter in enumerate(kernel.parameters):
            kind = f"P<{i}>"
            condition = parameter.attributes.get("function_constant")
            present = f"&::{condition.argument}" if condition else "nullptr"
            role = next(a for a in parameter.attributes.values() if a.name in
                        {"buffer", "threadgroup"} | set(POSITIONS) | set(INDICES))  # fmt: skip
            if role.name == "buffer":
                arguments.append(f"buffer<{kind}>(a.buffers[{role.argument}].data)")
                descriptions.append(
                    f'describe<{kind}>(Parameter::Buffer, {role.argument}, {present}, "{parameter.name}")'
                )
            elif role.name == "threadgroup":
                arguments.append(f"threadgroup<{kind}>(a.threadgroup[{role.argument}])")
                descriptions.append(
                    f'describe<{kind}>(Parameter::Threadgroup, {role.argument}, {present}, "{parameter.name}")'
                )
            elif role.name in POSITIONS:
                arguments.append(f"position<{kind}>({POSITIONS[role.name]})")
                positions.append(f"dimensions<{kind}>()")
            else:
                arguments.append(f"scalar<{kind}>({INDICES[role.name]})")
        same = " && ".join(f"{positions[0]} == {p}" for p in positions[1:])
        required = self.required_constants(instance.kernel)
        file = instance.token.file.replace('"', "")
        return "\n".join(
            [
                f'namespace k{n} {{\n#line {instance.token.line} "{file}"',
                f"typedef decltype(&::{instance.expression}) F; "
                "template <int I> using P = typename parameter<I, F>::type; "
                'static_assert(std::is_same<returns<F>::type, void>::value, "a kernel returns void"); '
                + (
                    f'static_assert({same}, "the positions of a kernel have the same number of components");'
                    if same
                    else ""
                ),
                '__attribute__((no_sanitize("thread", "undefined"))) static void entry('
                f"[[maybe_unused]] const Arguments &a) {{ ::{instance.expression}({', '.join(arguments)}); }}",
                f"static const Parameter parameters[] = {{ {', '.join([*descriptions, '{}'])} }};",
                f"static const int required[] = {{ {', '.join(map(str, [*required, -1]))} }};",
                f'static RegisterKernel registration({{"{instance.host_name}", entry, parameters, {len(descriptions)}, '
                f'required, {len(required)}, {kernel.max_threads}, "{file}", {kernel.token.line}, nullptr}});',
                "}",
            ]
        )


def translate(preprocessed: str) -> Translation:
    """Translate preprocessed Metal Shading Language to C++."""
    return Rewriter(preprocessed).translate()
