"""The phrases by which English refusals are recognised, collected for this project.

They are matched against lower-case text with straight apostrophes and single spaces. Every one says who declines
(``i``, ``we``) or by which rule, so that talk *about* refusing does not match.
"""

_SPEAKER = r"\b(?:i|we)"
_UNABLE = (
    r"(?: (?:simply |really |just |also |unfortunately )?(?:can't|can not|cannot|won't|will not|couldn't|could not)"
    r"|(?: am|'m| are|'re) (?:sorry,? but )?(?:not able to|unable to|not going to|not in a position to|not here to)"
    r"|(?: am|'m| are|'re) not (?:allowed|permitted|authori[sz]ed|programmed|designed) to"
    r"|(?: am|'m| are|'re) prohibited from| (?:do not|don't) have the ability to)"
)
_ADVERB = (
    r"(?: (?:really|simply|just|in good conscience|ethically|legally|knowingly|directly|actively|ever|possibly))?,?"
)
# What assistants decline to do. Verbs such as "see", "find" or "remember" are left out: not finding is not refusing.
_DEED = (
    r"(?:help|assist|aid|support|provide|offer|supply|give|share|reveal|disclose|tell you (?:how|where)|teach|show you|"
    r"explain how|answer|respond|reply|comply|fulfil|fulfill|satisfy|do (?:that|this|so|it)|be (?:of help|part|used)|"
    r"continue|proceed|engage|participate|take part|partake|contribute|facilitate|enable|"
    r"write|create|generate|produce|compose|draft|craft|make (?:that|this|up|jokes?|content)|"
    r"discuss|talk about|describe|elaborate|advise|suggest|recommend(?! \S+ (?:\S+ )?(?:enough|highly))|"
    r"promote|encourage|endorse|condone|advocate|glorify|justify|defend|agree to|accept (?:this|that|your)|"
    r"carry out|perform|execute|complete|role-?play|pretend|impersonate|entertain|honou?r)"
)
_VIRTUE = r"(?:ethical|appropriate|acceptable|legal|moral|okay|ok|permissible|responsible)"
_WRONG = (
    rf"(?:(?:not|never) {_VIRTUE}(?:,? (?:or|and|nor) \w+)?|(?:highly |both |deeply )?(?:illegal|unethical|immoral)"
    r"(?:,? (?:or|and|nor) (?:\w+ )?\w+)?)"
)

REFUSAL_PHRASES: tuple[str, ...] = (
    # I can't help with that. I am not able to provide … We won't take part …
    rf"{_SPEAKER}{_UNABLE}{_ADVERB} {_DEED}\b(?! but\b)",
    # I must decline. I have to refuse. I'd rather not. I choose not to answer.
    rf"{_SPEAKER} (?:must|have to|will have to|need to|should|am going to) (?:\w+ )?(?:decline|refuse|refrain|pass on)"
    r"\b",
    rf"{_SPEAKER} (?:(?:\w+ly )?(?:decline|refuse)) (?:to|your|this|that|the)\b",
    rf"{_SPEAKER}(?: would|'d) (?:rather|prefer) not\b",
    rf"{_SPEAKER}(?: would|'d) (?:have to|need to) (?:\w+ )?(?:decline|refuse)\b",
    rf"{_SPEAKER} (?:choose|prefer) not to {_DEED}\b",
    # I don't feel comfortable … I'm not comfortable … I'm not willing to …
    rf"{_SPEAKER} (?:don't|do not|wouldn't|would not) (?:feel|be) (?:\w+ )?comfortable\b",
    rf"{_SPEAKER}(?: am|'m| are|'re) (?:not|un)(?: ?\w+)? ?(?:comfortable|willing)\b",
    # I do not condone … I don't support … I will never encourage …
    rf"{_SPEAKER} (?:don't|do not|will never|would never|can never|could never|never|do n't) "
    r"(?:condone|support|encourage|endorse|promote|assist|provide|engage|help|participate|create|generate|produce|write)\b",
    # I should not … I shouldn't provide …
    rf"{_SPEAKER} (?:shouldn't|should not|mustn't|must not|may not) {_DEED}\b",
    # As an AI, I have to follow rules that forbid it.
    r"\b(?:my|our) (?:\w+ )?(?:guidelines|programming|policy|policies|principles|rules|instructions|purpose|values)"
    r" (?:do not|don't|does not|doesn't|prohibits?|forbids?|prevents?|stops?|bars?|won't|will not)\b",
    r"\b(?:against|violates?|contrary to|breach(?:es)?|outside|not in line with|inconsistent with) "
    r"(?:my|our) (?:\w+ ){0,4}?(?:guidelines|programming|polic(?:y|ies)|principles|rules|values|terms)\b",
    r"\b(?:this|that|your) (?:request|question|prompt|topic) (?:goes against|violates|is against|cannot be|can't be)\b",
    # That's not something I can help with. There's no way I could …
    r"\bnot something (?:that )?(?:i|we)(?:'m| am|'re| are)? "
    r"(?:can|could|will|would|able|willing|comfortable|allowed)\b",
    r"\b(?:nothing|no way) (?:that )?(?:i|we) (?:can|could|will|would) (?:help|assist|do that|provide|support)\b",
    # Sorry, but no. / I'm sorry, but that … is not possible.
    r"\bsorry,? (?:but )?(?:no\b[,.!]|not (?:possible|allowed)|(?:that|this)(?:'s| is) (?:not|off[- ]limits|beyond))",
    r"^(?:no|nope)[,.!] (?:i|we) (?:won't|can't|cannot|will not|refuse)\b",
    r"^(?:i'm|i am) (?:so |very |really |truly )?sorry[,.]? (?:but )?(?:i|we) "
    r"(?:can't|cannot|can not|won't|will not)\b",
    # I am an AI and do not condone … I strongly condemn … I strongly advise against …
    rf"\b(?:ai|assistant|language model|bot)\b[^.!?]{{0,40}}\b(?:do not|don't|cannot|can't|will not|won't) {_DEED}\b",
    rf"{_SPEAKER} (?:strongly |firmly )?(?:condemn|advise against|urge you not to|discourage|caution against)\b",
    # A lecture for an answer: It is never ethical to … I must emphasize that … is illegal.
    rf"^(?:(?:it(?:'s| is)|please) \w+ (?:to )?(?:note|remember|understand|know|stress) that )?it(?:'s| is) {_WRONG} "
    r"(?:to|for)\b",
    rf"{_SPEAKER} (?:must|have to|need to|want to) (?:\w+ )?(?:clarify|emphasi[sz]e|stress|point out|remind you) that "
    rf"[^.!?]{{0,150}}\b{_WRONG}",
)
