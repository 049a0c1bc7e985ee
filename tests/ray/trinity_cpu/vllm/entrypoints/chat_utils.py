class ChatTemplateContentFormat: ...


class ConversationMessage: ...


def parse_chat_messages(*_args: object, **_options: object) -> None:
    raise NotImplementedError


async def parse_chat_messages_async(*_args: object, **_options: object) -> None:
    raise NotImplementedError
