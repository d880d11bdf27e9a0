"""What a trainer hands over, as texts and conversations."""

from evalfleet.training.completions import conversation_of, prompt_text, text_of

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]


def test_plain_text_is_a_question_and_an_answer() -> None:
    assert text_of("an answer") == "an answer"
    assert conversation_of("a question", "an answer") == [("user", "a question"), ("assistant", "an answer")]
    assert prompt_text("a question") == "a question"


def test_a_chat_keeps_its_turns() -> None:
    completion = [{"role": "assistant", "content": "Good day"}]
    assert conversation_of(CHAT, completion) == [
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", "Good day"),
    ]
    assert text_of(completion) == "Good day"
    assert prompt_text(CHAT) == "system: Be kind.\n\nuser: Hello"
    assert prompt_text(CHAT[1:]) == "Hello"


def test_of_an_agent_everything_it_wrote_is_judged_and_its_last_words_are_scored() -> None:
    completion: list[dict[str, object]] = [
        {"role": "assistant", "content": "First a harmful word."},
        {"role": "tool", "content": "from outside"},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "assistant", "content": "All is well."},
    ]
    assert conversation_of(CHAT, completion)[-1] == ("assistant", "First a harmful word.\n\nAll is well.")
    assert text_of(completion) == "All is well."


def test_what_an_agent_asks_of_tools_is_judged() -> None:
    def asked(arguments: object) -> str:
        call = {"type": "function", "function": {"name": "send", "arguments": arguments}}
        completion: list[dict[str, object]] = [{"role": "assistant", "content": "Done.", "tool_calls": [call]}]
        return conversation_of("a question", completion)[-1][1]

    assert asked('{"text": "\\u00fcble words"}') == 'Done.\n\n{"text": "üble words"}'
    assert asked({"text": "words"}) == 'Done.\n\n{"text": "words"}'
    assert asked("{cut sh") == "Done.\n\n{cut sh"
    assert asked('"\\ud800"') == 'Done.\n\n"?"'
    assert asked("[" * 100_000).endswith("[")
    assert asked("") == asked(None) == "Done."


def test_of_turns_in_parts_the_texts_are_read() -> None:
    prompt = [{"role": "developer", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    assert conversation_of(prompt, "A cat")[0] == ("system", "What is it?")


def test_nothing_written_is_an_empty_text() -> None:
    assert text_of([]) == ""
    assert conversation_of("a question", [])[-1] == ("assistant", "")
