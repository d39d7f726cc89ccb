"""The built-in chat templates, in the formats their models were published with, and the choice of one."""

from __future__ import annotations

from tunewright.contracts.dataset_plugins import ChatTemplate, ChatTemplateRegistry
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.dataset_cacher.chat.open_instruct_templates import OPEN_INSTRUCT_TEMPLATES
from tunewright.dataset_cacher.tokens.tokenizer_files import TokenizerFiles

TOKENIZERS_OWN = "tokenizer"
"""What users write in `model.chat_template` for the template that the tokenizer brings."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

BUILT_IN_TEMPLATES = (
    *OPEN_INSTRUCT_TEMPLATES,
    ChatTemplate("chatml", CHATML, 1, "<|im_start|>role, <|im_end|>"),
)


def choose_template(name: str, registered: ChatTemplateRegistry, files: TokenizerFiles) -> ChatTemplate:
    """The template called `name`, or the tokenizer's own.

    Raises UnknownPlugin, listing the registered ones, and InvalidExperiment for a tokenizer without a template.
    """
    if name != TOKENIZERS_OWN:
        return registered.get(name, "model.chat_template")
    if files.chat_template is None:
        names = ", ".join(registered.names())
        problem = Problem("model.chat_template", "`tokenizer`: the tokenizer has no chat template", f"allowed: {names}")
        raise InvalidExperiment.from_problems(str(files.directory), [problem])
    return ChatTemplate(TOKENIZERS_OWN, files.chat_template, 1)
