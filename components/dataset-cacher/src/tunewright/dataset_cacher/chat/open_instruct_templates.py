"""The chat templates of open-instruct, by its names: Jinja of our own that renders the same text.

What several have in common is written once. A template's text is part of the digest of every cache made with it: an
edit here that renders the same still makes new caches.
"""

from __future__ import annotations

from tunewright.contracts.dataset_plugins import ChatTemplate

_END_OF_TEXT = "{% if loop.last and not add_generation_prompt %}{{ eos_token }}{% endif %}"
_ROLE_AND_CONTENT = "message['role'].capitalize() + ': ' + message['content']"


def _for_each(turn: str, asked_for: str = "") -> str:
    """Every message as `turn`; `asked_for` is what asks for an answer, behind the last message."""
    ask = "{% if loop.last and add_generation_prompt %}{{ '" + asked_for + "' }}{% endif %}" if asked_for else ""
    return "{% for message in messages %}" + turn + ask + "{% endfor %}"


def _joined_by(gap: str, turn: str) -> str:
    """Messages with `gap` between them, and the end-of-sequence token behind the last."""
    return _for_each("{{ '' if loop.first else '" + gap + "' }}{{ " + turn + " }}" + _END_OF_TEXT)


SIMPLE_CONCAT_WITH_SPACE = _joined_by(" ", "message['content']")
SIMPLE_CONCAT_WITH_NEW_LINE = _joined_by("\\n", "message['content']")
SIMPLE_CHAT = _joined_by("\\n\\n", _ROLE_AND_CONTENT)
ASSISTANT_MESSAGE_ONLY = _for_each("{% if message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}")

ZEPHYR = _for_each(
    "{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endif %}",
    "<|assistant|>\\n",
)


def _tulu(asked_for: str, answer: str = "message['content']") -> str:
    """Tulu's turns; `answer` is an expression for what is rendered of an answer."""
    return _for_each(
        "{% if message['role'] in ['system', 'user'] %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ '<|assistant|>\\n' + " + answer + " + eos_token + ('' if loop.last else '\\n') }}"
        "{% endif %}",
        asked_for,
    )


_R1_PREAMBLE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>.\n\n"
)

TULU = _tulu("<|assistant|>\\n")
TULU_THINKER = _tulu("<|assistant|>\\n<think>")
TULU_THINKER_R1_STYLE = _R1_PREAMBLE + _tulu("<|assistant|>\\n<think>", "message['content'].split('</think>')[-1]")

_NO_FUNCTIONS = "You do not currently have access to any functions. <functions></functions>"

_OLMO_SYSTEM = (
    "You are OLMo, a helpful function-calling AI assistant built by Ai2. Your date cutoff is November 2024, and your "
    "model weights are available at https://huggingface.co/allenai. " + _NO_FUNCTIONS
)
_OLMO_7B_SYSTEM = (
    "You are Olmo, a helpful AI assistant built by Ai2. Your date cutoff is December 2024, and your model weights are "
    "available at https://huggingface.co/allenai."
)
_SHORT_SYSTEM = "You are a helpful AI assistant."

_LAST_THINKING_ONLY = (
    "{% set content = content | string %}"
    "{% if not loop.last and '<think>' in content and '</think>' in content %}"
    "{{ content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ content }}{% endif %}"
)


def _olmo(default_system: str, asked_for: str = "", answer: str = "{{ content }}") -> str:
    """OLMo's turns: functions beside the contents, a system message of its own where there is none.

    The last message, if an answer, ends with the end-of-sequence token, every other one with `<|im_end|>`.
    """
    return (
        "{% if not messages | selectattr('role', 'equalto', 'system') | list %}"
        "{{ '<|im_start|>system\\n" + default_system + "<|im_end|>\\n' }}"
        "{% endif %}"
    ) + _for_each(
        "{% set functions = message.get('functions') %}"
        "{% if message['role'] == 'system' %}"
        "{{ '<|im_start|>system\\n' + message['content'] + ' ' }}"
        "{% if functions is none %}{{ '" + _NO_FUNCTIONS + "' }}"
        "{% else %}{{ '<functions>' + functions + '</functions>' }}{% endif %}"
        "{{ '<|im_end|>\\n' }}"
        "{% elif message['role'] == 'user' %}"
        "{{ '<|im_start|>user\\n' + message['content'] }}"
        "{% if functions is not none %}{{ '\\n<functions>' + functions + '</functions>' }}{% endif %}"
        "{{ '<|im_end|>\\n' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ '<|im_start|>assistant\\n' }}"
        "{% set content = message.get('content') %}"
        "{% if content is not none %}" + answer + "{% endif %}"
        "{% set calls = message.get('function_calls') %}"
        "{% if calls is not none %}{{ '<function_calls>' + calls + '</function_calls>' }}{% endif %}"
        "{{ eos_token if loop.last else '<|im_end|>\\n' }}"
        "{% elif message['role'] == 'environment' %}"
        "{{ '<|im_start|>environment\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endif %}",
        "<|im_start|>assistant\\n" + asked_for,
    )


OLMO = _olmo(_OLMO_SYSTEM)
OLMO_THINKER = _olmo(_SHORT_SYSTEM, "<think>")
OLMO_THINKER_NO_THINK_7B = _olmo(_OLMO_7B_SYSTEM)
OLMO_THINKER_REMOVE_INTERMEDIATE_THINKING = _olmo(_SHORT_SYSTEM, "<think>", _LAST_THINKING_ONLY)
OLMO_THINKER_NO_THINK_SFT_TOKENIZATION = _olmo(_SHORT_SYSTEM)


def _set_apart(turn: str, asked_for: str) -> str:
    """Messages with an empty line between them, each ended by a line break."""
    return _for_each("{{ ('' if loop.first else '\\n\\n') + " + turn + " + '\\n' }}", asked_for)


OLMO_THINKER_RLZERO = (
    "Solve the following problem step by step. The last line of your response should be the answer to the problem in "
    "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
) + _set_apart("message['content']", '\\nRemember to put your answer on its own line after "Answer:"')
OLMO_THINKER_CODE_RLZERO = (
    "Solve the following code problem step by step. The last part of your response should be the solution to the "
    "problem in form ```\npython\nCODE\n``` where CODE is the solution for the problem.\n\n"
) + _set_apart("message['content']", "Remember to put your solution inside the ```\\npython\\nCODE\\n``` tags")

_ORZ_ROLE_AND_CONTENT = (
    "message['role'].capitalize() + ': You must put your answer inside <answer> </answer> tags, i.e., <answer> answer "
    "here </answer>. And your final answer will be extracted automatically by the \\\\boxed{} tag. This is the "
    "problem: ' + message['content']"
)
_TOOL_PREAMBLE = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. \n\n"
    "When given a question, the Assistant must conduct reasoning inside the <think> and </think> tags. During "
    "reasoning, the Assistant may write and execute python code using the <code> </code> tag, in order to solve the "
    "problem or verify the answer. Then the Assistant will get the stdout and stderr in the <output> and </output> "
    "tags. For example, the code could be\n<code>\nx, y = 1, 2\nresult = x + y\nprint(result)\n</code>\nor\n<code>\n"
    "import sympy as sp\nfrom sympy import Symbol\nx = Symbol('x')\ny = Symbol('y')\n"
    "solution = sp.solve(x**2 + y**2 - 1, (x, y))\nprint(solution)\n</code>\n"
    "The Assistant will always `print` the result of the code execution in order to see it in the <output> tag. The "
    "Assistant may use the <code> </code> tag multiple times. When the Assistant is done reasoning, it should provide "
    "the answer inside the <answer> and </answer> tag.\n\n"
)

R1_SIMPLE_CHAT = _R1_PREAMBLE + _set_apart(_ROLE_AND_CONTENT, "Assistant:")
R1_SIMPLE_CHAT_POSTPEND_THINK = _R1_PREAMBLE + _set_apart(_ROLE_AND_CONTENT, "Assistant: <think>")
R1_SIMPLE_CHAT_POSTPEND_THINK_ORZ_STYLE = _R1_PREAMBLE + _set_apart(_ORZ_ROLE_AND_CONTENT, "Assistant: <think>")
R1_SIMPLE_CHAT_POSTPEND_THINK_TOOL_VLLM = _TOOL_PREAMBLE + _set_apart(_ORZ_ROLE_AND_CONTENT, "Assistant: <think>")

QWEN_INSTRUCT_USER_BOXED_MATH = _for_each(
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% if message['role'] == 'user' %}"
    "{{ '\\nPlease reason step by step, and put your final answer within \\\\boxed{}.' }}"
    "{% endif %}"
    "{{ '<|im_end|>\\n' }}",
    "<|im_start|>assistant\\n",
)

_SOURCES_AND_SUMMARIES = {
    "simple_concat_with_space": (SIMPLE_CONCAT_WITH_SPACE, "contents with a space between them"),
    "simple_concat_with_new_line": (SIMPLE_CONCAT_WITH_NEW_LINE, "contents with a line break between them"),
    "simple_chat": (SIMPLE_CHAT, "User: ..., Assistant: ..., for models without role tokens"),
    "assistant_message_only": (ASSISTANT_MESSAGE_ONLY, "the answers alone, one behind the other"),
    "zephyr": (ZEPHYR, "as tulu, with every message ended by the end-of-sequence token"),
    "olmo": (OLMO, "<|im_start|>role, <|im_end|>, functions; with OLMo 2's system message where there is none"),
    "olmo_old": (OLMO, "the same as olmo"),
    "tulu": (TULU, "<|user|>, <|assistant|>; an answer ends with the end-of-sequence token"),
    "tulu_thinker": (TULU_THINKER, "as tulu; an answer is asked for with <think>"),
    "tulu_thinker_r1_style": (TULU_THINKER_R1_STYLE, "as tulu_thinker, behind R1's preamble, without the thinking"),
    "olmo_thinker": (OLMO_THINKER, "as olmo with a short system message; an answer is asked for with <think>"),
    "olmo_thinker_no_think_7b": (OLMO_THINKER_NO_THINK_7B, "as olmo, with Olmo 3's system message"),
    "olmo_thinker_remove_intermediate_thinking": (
        OLMO_THINKER_REMOVE_INTERMEDIATE_THINKING,
        "as olmo_thinker, with the thinking of the last message only",
    ),
    "olmo_thinker_no_think_sft_tokenization": (
        OLMO_THINKER_NO_THINK_SFT_TOKENIZATION,
        "as olmo with a short system message: what Olmo 3 Think was trained with",
    ),
    "olmo_thinker_rlzero": (OLMO_THINKER_RLZERO, "a problem, to be answered behind `Answer:`"),
    "olmo_thinker_code_rlzero": (OLMO_THINKER_CODE_RLZERO, "a problem, to be answered in a block of code"),
    "r1_simple_chat": (R1_SIMPLE_CHAT, "User: ..., Assistant: ... behind DeepSeek-R1's preamble"),
    "r1_simple_chat_postpend_think": (
        R1_SIMPLE_CHAT_POSTPEND_THINK,
        "as r1_simple_chat; an answer is asked for with <think>",
    ),
    "r1_simple_chat_postpend_think_orz_style": (
        R1_SIMPLE_CHAT_POSTPEND_THINK_ORZ_STYLE,
        "as r1_simple_chat_postpend_think, each message behind Open-Reasoner-Zero's words",
    ),
    "r1_simple_chat_postpend_think_tool_vllm": (
        R1_SIMPLE_CHAT_POSTPEND_THINK_TOOL_VLLM,
        "as r1_simple_chat_postpend_think_orz_style, behind a preamble that allows for code",
    ),
    "qwen_instruct_user_boxed_math": (
        QWEN_INSTRUCT_USER_BOXED_MATH,
        "as chatml, each question followed by Qwen's request for \\boxed{}",
    ),
}

OPEN_INSTRUCT_TEMPLATES = tuple(
    ChatTemplate(name, source, api=1, summary=summary) for name, (source, summary) in _SOURCES_AND_SUMMARIES.items()
)
"""All 21."""
