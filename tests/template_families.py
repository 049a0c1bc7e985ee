"""Chat templates built as those of public model families are, in our words, with tokenizers.

What is kept of a family is what matters where turns are joined: what stands before, between and
behind the turns, what is trimmed, and which role is refused.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIALS = (
    *("<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<|observation|>", "<|User|>", "<|Assistant|>", "<|head|>", "<|/head|>", "<|eot|>"),
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[/TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
_TEXTS = [
    f"What is {a} plus {b}? The answer is {a + b}. user assistant system hello there\n\nyes"
    for a in range(12)
    for b in range(12)
]

_EACH = "{% for m in messages %}"
_REPLY_PROMPT = "{% if add_generation_prompt %}"
_CHATML = (
    _EACH + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    f"{_REPLY_PROMPT}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_HERMES_TURNS = (
    _EACH + "{% if m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + "
    "'\n</tool_response><|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ ('\n' if m.content or not loop.first else '') + "
    '\'<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' + '
    "(c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}" + _REPLY_PROMPT + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SHOWN_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\nTools: ' + (tools | tojson) + '<|im_end|>\n' }}"
    "{% endif %}"
)
_THINKS_WHEN_LAST = (
    "{% set ns = namespace(asked=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
)
_ALTERNATES = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('the roles must take turns') }}{% endif %}"
)
_INST = (
    "{{ bos_token }}" + _EACH + _ALTERNATES + "{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
_NATIVE_INST = (
    "{{ bos_token }}{% set ns = namespace(asked=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
    "{{ raise_exception('ids of calls have nine letters') }}{% endif %}{% endfor %}"
    "{% if m.role == 'user' %}{% if tools and loop.index0 == ns.asked %}"
    "{{ '[AVAILABLE_TOOLS]SPACE' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]SPACE' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS]SPACE[' }}{% for c in m.tool_calls %}"
    '{{ \'{"name": "\' + c.function.name + \'", "arguments": \' + (c.function.arguments | tojson) '
    "+ '}' + (', ' if not loop.last else '') }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]SPACE{\"content\": \"' + m.content + "
    "'\"}[/TOOL_RESULTS]' }}{% else %}{{ 'SPACE' + m.content + eos_token }}{% endif %}{% endfor %}"
)
_GEMMA_TURNS = (
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + OPENING + (m.content | trim) + '<end_of_turn>\n' }}"
    "{% endfor %}" + _REPLY_PROMPT + "{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family of models writes a conversation."""

    name: str
    template: str
    tokenizers: tuple[str, ...]
    """Kinds of tokenizers that models of this family come with."""
    end: str
    """The token that the model ends a reply with."""
    eos: str
    extra_stops: tuple[str, ...] = ()
    """Further end tokens, from the generation settings of its models."""
    before: str = ""
    """What the model writes before the text of a reply."""
    lead: str = ""
    """What the model writes between that and the end token."""
    trims: bool = False
    """The template takes whitespace off the ends of a reply."""
    call: str = '<tool_call>\n{"name": "add", "arguments": {"a":2,"b":3}}\n</tool_call>'
    """A call of the tool `add`, in other spacing than the template's."""
    moves_tools: bool = False
    """The template describes tools before the last question, and so rewrites the one before."""

    def tokenizer(self, kind: str) -> PreTrainedTokenizerFast:
        """A new one around a vocabulary that is trained once."""
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_TOKENIZERS[kind]()),
            bos_token="<s>",
            eos_token=self.eos,
            chat_template=self.template,
        )


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, _TEXTS, initial_alphabet=alphabet)


def _sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer


def _as_trained() -> list[str]:
    return [f"▁{text}".replace(" ", "▁") for text in _TEXTS]


def _sentencepiece_every() -> Tokenizer:
    """A space before every text between special tokens, as Llama 2 was converted first."""
    tokenizer = _trained(_sentencepiece(), _as_trained())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def _sentencepiece_first() -> Tokenizer:
    """A space before the first text only, as later conversions have it."""
    tokenizer = _trained(_sentencepiece(), _as_trained())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first", split=False
    )
    return tokenizer


def _sentencepiece_swallowing() -> Tokenizer:
    """End tokens swallow the whitespace behind them, as those of Phi-3 do."""
    tokenizer = _sentencepiece_every()
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    return tokenizer


def _trained(tokenizer: Tokenizer, texts: list[str], **options: object) -> Tokenizer:
    sizes = [f"<0x{byte:02X}>" for byte in range(256)]
    bytes_ = sizes if tokenizer.model.byte_fallback else []
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*SPECIALS, *bytes_],
        show_progress=False,
        **options,
    )
    tokenizer.train_from_iterator(texts, trainer)
    written = json.loads(tokenizer.to_str())
    # The bytes are ordinary tokens; training can only be told of them as special ones.
    written["added_tokens"] = written["added_tokens"][: len(SPECIALS)]
    return Tokenizer.from_str(json.dumps(written))


def _once(make: Callable[[], Tokenizer]) -> Callable[[], str]:
    return functools.cache(lambda: make().to_str())


_TOKENIZERS = {
    "byte level": _once(_byte_level),
    "sentencepiece, every": _once(_sentencepiece_every),
    "sentencepiece, first": _once(_sentencepiece_first),
    "sentencepiece, swallowing": _once(_sentencepiece_swallowing),
}
_BYTES = ("byte level",)
_PIECES = ("sentencepiece, every", "sentencepiece, first")
_ALL = (*_BYTES, *_PIECES)

FAMILIES = (
    Family(
        name="Llama 2",
        template="{% if messages[0].role == 'system' %}"
        "{% set opening = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set opening = '' %}{% endif %}"
        + _EACH
        + _ALTERNATES
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (opening if loop.first else '') + "
        "m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}",
        tokenizers=_ALL,
        end="</s>",
        eos="</s>",
        before=" ",
        lead=" ",
        trims=True,
    ),
    Family(
        name="Llama 3",
        template="{{ bos_token + '<|head|>system<|/head|>\n\nToday: ' + "
        "strftime_now('%d %b %Y, %H:%M:%S') + '<|eot|>' }}"
        + _EACH
        + "{{ '<|head|>' + m.role + '<|/head|>\n\n' + (m.content | trim) + '<|eot|>' }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}",
        tokenizers=_BYTES,
        end="<|eot|>",
        eos="<|eot|>",
        trims=True,
    ),
    Family(
        name="Mistral v0.1",
        template=_INST,
        tokenizers=_PIECES,
        end="</s>",
        eos="</s>",
    ),
    Family(
        name="Mistral v0.3",
        template=_NATIVE_INST.replace("SPACE", " "),
        tokenizers=_PIECES,
        end="</s>",
        eos="</s>",
        before=" ",
        moves_tools=True,
        call='[TOOL_CALLS] [{"name":"add","arguments":{"a":2,"b":3}}]',
    ),
    Family(
        name="Mistral, tekken",
        template=_NATIVE_INST.replace("SPACE", ""),
        tokenizers=_BYTES,
        end="</s>",
        eos="</s>",
        moves_tools=True,
        call='[TOOL_CALLS] [{"name":"add","arguments":{"a":2,"b":3}}]',
    ),
    Family(
        name="Gemma 2",
        template="{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        + _EACH
        + _ALTERNATES
        + _GEMMA_TURNS.replace("OPENING", "''"),
        tokenizers=_BYTES,
        end="<end_of_turn>",
        eos="</s>",
        trims=True,
    ),
    Family(
        name="Gemma 3",
        template="{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{% set opening = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
        "{% else %}{% set opening = '' %}{% endif %}"
        + _EACH
        + _ALTERNATES
        + _GEMMA_TURNS.replace("OPENING", "(opening if loop.first else '')"),
        tokenizers=_BYTES,
        end="<end_of_turn>",
        eos="</s>",
        trims=True,
    ),
    Family(
        name="Phi-3",
        template=_EACH
        + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        tokenizers=("sentencepiece, swallowing", "byte level"),
        end="<|end|>",
        eos="<|endoftext|>",
    ),
    Family(
        name="Phi-4",
        template=_EACH
        + "{{ '<|im_start|>' + m.role + '<|/head|>' + m.content + '<|im_end|>' }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '<|im_start|>assistant<|/head|>' }}{% endif %}",
        tokenizers=_BYTES,
        end="<|im_end|>",
        eos="<|endoftext|>",
    ),
    Family(
        name="Qwen 2.5",
        template=_SHOWN_TOOLS + "{% if messages[0].role != 'system' and not tools %}"
        "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + _HERMES_TURNS,
        tokenizers=_BYTES,
        end="<|im_end|>",
        eos="<|im_end|>",
    ),
    Family(
        name="Qwen 3",
        template=_SHOWN_TOOLS
        + _THINKS_WHEN_LAST
        + _HERMES_TURNS.replace(
            "{{ '<|im_start|>' + m.role + '\n' + m.content }}",
            "{% set thought = m.reasoning_content or '' %}{{ '<|im_start|>' + m.role + '\n' }}"
            "{% if m.role == 'assistant' and loop.index0 > ns.asked and (loop.last or thought) %}"
            "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ m.content }}",
        ),
        tokenizers=_BYTES,
        end="<|im_end|>",
        eos="<|im_end|>",
    ),
    Family(
        name="DeepSeek R1",
        template="{{ bos_token }}"
        + _EACH
        + "{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'system' %}"
        "{{ m.content }}{% else %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
        "{% endif %}{% endfor %}" + _REPLY_PROMPT + "{{ '<|Assistant|><think>\n' }}{% endif %}",
        tokenizers=_BYTES,
        end="</s>",
        eos="</s>",
    ),
    Family(
        name="DeepSeek V3",
        template="{{ bos_token }}"
        + _EACH
        + "{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'system' %}"
        "{{ m.content }}{% else %}{{ '<|Assistant|>' + m.content + eos_token }}{% endif %}"
        "{% endfor %}" + _REPLY_PROMPT + "{{ '<|Assistant|>' }}{% endif %}",
        tokenizers=_BYTES,
        end="</s>",
        eos="</s>",
    ),
    Family(
        name="DeepSeek Coder",
        template="{{ bos_token }}"
        + _EACH
        + "{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}"
        "{% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n<|eot|>\n' }}"
        "{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '### Response:' }}{% endif %}",
        tokenizers=_ALL,
        end="<|eot|>",
        eos="<|eot|>",
        before="\n",
        lead="\n",
    ),
    Family(
        name="GLM-4",
        template="{{ bos_token }}"
        + _EACH
        + "{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '<|assistant|>\n' }}{% endif %}",
        tokenizers=_BYTES,
        end="<|user|>",
        eos="<|endoftext|>",
        extra_stops=("<|user|>", "<|observation|>"),
    ),
    Family(
        name="Yi, ChatML",
        template=_CHATML,
        tokenizers=_ALL,
        end="<|im_end|>",
        eos="<|im_end|>",
    ),
    Family(
        name="Falcon",
        template=_EACH
        + "{{ ('\n' if not loop.first else '') + {'system': 'System: ', 'user': 'User: ', "
        "'assistant': 'Falcon: '}[m.role] + m.content }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '\nFalcon:' }}{% endif %}",
        tokenizers=_BYTES,
        end="<|endoftext|>",
        eos="<|endoftext|>",
        before=" ",
    ),
    Family(
        name="Falcon 3",
        template=_EACH
        + "{% if m.role != 'assistant' %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% else %}"
        "{{ '<|assistant|>\n' + m.content + eos_token + ('\n' if not loop.last else '') }}"
        "{% endif %}{% endfor %}" + _REPLY_PROMPT + "{{ '<|assistant|>\n' }}{% endif %}",
        tokenizers=_BYTES,
        end="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    Family(
        name="Zephyr",
        template=_EACH
        + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        + _REPLY_PROMPT
        + "{{ '<|assistant|>\n' }}{% endif %}",
        tokenizers=_ALL,
        end="</s>",
        eos="</s>",
    ),
    Family(
        name="Vicuna",
        template=_EACH
        + "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'system' %}"
        "{{ m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}"
        "{% endfor %}" + _REPLY_PROMPT + "{{ 'ASSISTANT:' }}{% endif %}",
        tokenizers=_PIECES,
        end="</s>",
        eos="</s>",
        before=" ",
    ),
    Family(
        name="SmolLM 2",
        template="{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}{% endif %}" + _CHATML,
        tokenizers=_BYTES,
        end="<|im_end|>",
        eos="<|im_end|>",
    ),
)
"""In the order of the table in docs/templates.md."""
