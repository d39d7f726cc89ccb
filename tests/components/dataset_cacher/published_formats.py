"""What each built-in template renders, written out without a template engine: the formats as they were published.

A rendered conversation is a list of pieces: a text, and the message that says it, if one does. What an answer says is
its content as far as the format keeps it, and its end of turn where the format has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]


class Piece(NamedTuple):
    """Some text of a rendered conversation."""

    text: str
    speaker: int | None = None
    """The message whose content or end of turn it is."""


class Scene(NamedTuple):
    """What a format is told."""

    messages: Sequence[Message]
    asks: bool
    """Whether the next answer is asked for."""

    eos: str

    def is_last(self, index: int) -> bool:
        return index == len(self.messages) - 1


Format = Callable[[Scene], list[Piece]]

R1 = """A conversation between User and Assistant. The user asks a question, and the Assistant solves it. \
The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. \
The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, \
i.e., <think> reasoning process here </think> <answer> answer here </answer>.

"""
TOOL_VLLM = """A conversation between User and Assistant. The User asks a question, and the Assistant solves it. \
The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer.\x20

When given a question, the Assistant must conduct reasoning inside the <think> and </think> tags. During reasoning, \
the Assistant may write and execute python code using the <code> </code> tag, in order to solve the problem or verify \
the answer. Then the Assistant will get the stdout and stderr in the <output> and </output> tags. For example, the \
code could be
<code>
x, y = 1, 2
result = x + y
print(result)
</code>
or
<code>
import sympy as sp
from sympy import Symbol
x = Symbol('x')
y = Symbol('y')
solution = sp.solve(x**2 + y**2 - 1, (x, y))
print(solution)
</code>
The Assistant will always `print` the result of the code execution in order to see it in the <output> tag. \
The Assistant may use the <code> </code> tag multiple times. When the Assistant is done reasoning, it should provide \
the answer inside the <answer> and </answer> tag.

"""
ORZ = (
    "You must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. And your final "
    "answer will be extracted automatically by the \\boxed{} tag. This is the problem: "
)
RLZERO = (
    "Solve the following problem step by step. The last line of your response should be the answer to the problem in "
    "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
CODE_RLZERO = (
    "Solve the following code problem step by step. The last part of your response should be the solution to the "
    "problem in form ```\npython\nCODE\n``` where CODE is the solution for the problem.\n\n"
)
NO_FUNCTIONS = " You do not currently have access to any functions. <functions></functions>"
OLMO_SYSTEM = (
    "You are OLMo, a helpful function-calling AI assistant built by Ai2. Your date cutoff is November 2024, and your "
    "model weights are available at https://huggingface.co/allenai." + NO_FUNCTIONS
)
OLMO_7B_SYSTEM = (
    "You are Olmo, a helpful AI assistant built by Ai2. Your date cutoff is December 2024, and your model weights are "
    "available at https://huggingface.co/allenai."
)
HELPFUL = "You are a helpful AI assistant."


def all_of_it(content: str, is_last: bool) -> str:
    return content


def behind_thinking(content: str, is_last: bool) -> str:
    return content.rpartition("</think>")[2]


def thinking_of_the_last(content: str, is_last: bool) -> str:
    thinks = "<think>" in content and "</think>" in content
    return content if is_last or not thinks else content.rpartition("</think>")[2].lstrip("\n")


def concatenated(gap: str) -> Format:
    """The gap before an answer is the answer's: what asks for an answer is the text before it, and no more."""

    def render(scene: Scene) -> list[Piece]:
        pieces = []
        for index, message in enumerate(scene.messages):
            pieces += [Piece(gap if index else "", index), Piece(message["content"], index)]
        return pieces + ([] if scene.asks else [Piece(scene.eos, len(scene.messages) - 1)])

    return render


def simple_chat(scene: Scene) -> list[Piece]:
    pieces = []
    for index, message in enumerate(scene.messages):
        gap = "\n\n" if index else ""
        pieces += [Piece(f"{gap}{message['role'].capitalize()}: "), Piece(message["content"], index)]
    return pieces + ([] if scene.asks else [Piece(scene.eos, len(scene.messages) - 1)])


def assistant_message_only(scene: Scene) -> list[Piece]:
    return [
        Piece(message["content"], index)
        for index, message in enumerate(scene.messages)
        if message["role"] == "assistant"
    ]


def zephyr(scene: Scene) -> list[Piece]:
    """Open-instruct trains the line break behind the end of turn, too: it is there before anyone speaks."""
    pieces = []
    for index, message in enumerate(scene.messages):
        if message["role"] in ("system", "user", "assistant"):
            pieces += [Piece(f"<|{message['role']}|>\n"), Piece(message["content"] + scene.eos + "\n", index)]
    return [*pieces, Piece("<|assistant|>\n")] if scene.asks else pieces


def tulu(ask: str = "", preamble: str = "", kept: Callable[[str, bool], str] = all_of_it) -> Format:
    def render(scene: Scene) -> list[Piece]:
        pieces = [Piece(preamble)]
        for index, message in enumerate(scene.messages):
            role, content = message["role"], message["content"]
            if role == "assistant":
                said = kept(content, scene.is_last(index)) + scene.eos
                pieces += [Piece("<|assistant|>\n"), Piece(said, index), Piece("" if scene.is_last(index) else "\n")]
            elif role in ("system", "user"):
                pieces += [Piece(f"<|{role}|>\n"), Piece(content, index), Piece("\n")]
        return [*pieces, Piece("<|assistant|>\n" + ask)] if scene.asks else pieces

    return render


def olmo(system: str, ask: str = "", kept: Callable[[str, bool], str] = all_of_it) -> Format:
    def render(scene: Scene) -> list[Piece]:
        has_system = any(message["role"] == "system" for message in scene.messages)
        pieces = [] if has_system else [Piece(f"<|im_start|>system\n{system}<|im_end|>\n")]
        for index, message in enumerate(scene.messages):
            role, content = message["role"], message["content"]
            if role == "assistant":
                said, is_last = kept(content, scene.is_last(index)), scene.is_last(index)
                pieces += [Piece("<|im_start|>assistant\n"), Piece(said, index)]
                pieces += [Piece(scene.eos, index)] if is_last else [Piece("<|im_end|>", index), Piece("\n")]
            elif role in ("system", "user", "environment"):
                functions = NO_FUNCTIONS if role == "system" else ""
                pieces += [Piece(f"<|im_start|>{role}\n"), Piece(content, index), Piece(f"{functions}<|im_end|>\n")]
        return [*pieces, Piece("<|im_start|>assistant\n" + ask)] if scene.asks else pieces

    return render


def set_apart(preamble: str, ask: str, words: Callable[[str], str]) -> Format:
    """No end of turn: the line break behind a message is there for every role."""

    def render(scene: Scene) -> list[Piece]:
        pieces = [Piece(preamble)]
        for index, message in enumerate(scene.messages):
            gap = "\n\n" if index else ""
            pieces += [Piece(gap + words(message["role"])), Piece(message["content"], index), Piece("\n")]
        return [*pieces, Piece(ask)] if scene.asks else pieces

    return render


def chatml(suffix_of_users: str = "") -> Format:
    def render(scene: Scene) -> list[Piece]:
        pieces = []
        for index, message in enumerate(scene.messages):
            suffix = suffix_of_users if message["role"] == "user" else ""
            said = message["content"] + suffix + "<|im_end|>\n"
            pieces += [Piece(f"<|im_start|>{message['role']}\n"), Piece(said, index)]
        return [*pieces, Piece("<|im_start|>assistant\n")] if scene.asks else pieces

    return render


def named(role: str) -> str:
    return f"{role.capitalize()}: "


FORMATS: dict[str, Format] = {
    "simple_concat_with_space": concatenated(" "),
    "simple_concat_with_new_line": concatenated("\n"),
    "simple_chat": simple_chat,
    "assistant_message_only": assistant_message_only,
    "zephyr": zephyr,
    "olmo": olmo(OLMO_SYSTEM),
    "olmo_old": olmo(OLMO_SYSTEM),
    "tulu": tulu(),
    "tulu_thinker": tulu("<think>"),
    "tulu_thinker_r1_style": tulu("<think>", R1, behind_thinking),
    "olmo_thinker": olmo(HELPFUL, "<think>"),
    "olmo_thinker_no_think_7b": olmo(OLMO_7B_SYSTEM),
    "olmo_thinker_remove_intermediate_thinking": olmo(HELPFUL, "<think>", thinking_of_the_last),
    "olmo_thinker_no_think_sft_tokenization": olmo(HELPFUL),
    "olmo_thinker_rlzero": set_apart(
        RLZERO, '\nRemember to put your answer on its own line after "Answer:"', lambda role: ""
    ),
    "olmo_thinker_code_rlzero": set_apart(
        CODE_RLZERO, "Remember to put your solution inside the ```\npython\nCODE\n``` tags", lambda role: ""
    ),
    "r1_simple_chat": set_apart(R1, "Assistant:", named),
    "r1_simple_chat_postpend_think": set_apart(R1, "Assistant: <think>", named),
    "r1_simple_chat_postpend_think_orz_style": set_apart(R1, "Assistant: <think>", lambda role: named(role) + ORZ),
    "r1_simple_chat_postpend_think_tool_vllm": set_apart(
        TOOL_VLLM, "Assistant: <think>", lambda role: named(role) + ORZ
    ),
    "qwen_instruct_user_boxed_math": chatml(
        "\nPlease reason step by step, and put your final answer within \\boxed{}."
    ),
    "chatml": chatml(),
}

ASKING = frozenset(
    name
    for name in FORMATS
    if name
    in ("zephyr", "tulu", "chatml", "assistant_message_only", "qwen_instruct_user_boxed_math", "olmo", "olmo_old")
    or name.startswith("simple_concat")
    or "no_think" in name
)
"""Formats whose answers follow what asks for them: open-instruct's rule can be applied to them."""


def text_of(template: str, messages: Sequence[Message], eos: str, asks: bool = False) -> str:
    """The whole conversation as text."""
    return "".join(piece.text for piece in FORMATS[template](Scene(messages, asks, eos)))
