"""Words by which a question points to a text that only its writer has seen.

Each language has two tables. A phrase of the first always points. One of the second ("the following
table") may point to what the question itself goes on to show, so it counts only where nothing of
the kind stands in the question: no line break, and no colon with text behind it.

In English a pronoun points, too, where nothing that it could stand for comes before it ("How long
does it wait?"), unless it stands for nothing ("does it take").

A noun such as "document" or "text" is also a thing that questions are about ("in the document API",
"the text field", "in the context of a rollout"), so it points only where the phrase ends behind it.
All repetitions are bounded: time is linear in the length of the question.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_END = r"(?=\s{0,3}(?:[,.;:?!)\]，。；：？！、]|$))"
"""The phrase is over: punctuation, or the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointingPhrases:
    """Of one language."""

    always: re.Pattern[str]
    unless_shown: re.Pattern[str]


def _phrases(*, always: tuple[str, ...], unless_shown: tuple[str, ...]) -> PointingPhrases:
    return PointingPhrases(
        always=re.compile("|".join(always), re.IGNORECASE),
        unless_shown=re.compile("|".join(unless_shown), re.IGNORECASE),
    )


_EN_TEXT = r"(?:text|passage|document|excerpt|article|paragraph|snippet|context|section|chapter)"
_EN_SAID = r"(?:stated|described|mentioned|shown|defined|explained|given|noted|listed|discussed)"
_EN_ASKS = r"(?=\s{1,3}(?:what|which|how|who|whom|when|where|why|is|are|do|does|did|was|can)\b)"
_EN_SPEAKS = r"(?:say|says|said|mention|state|describe|explain|claim|argue|suggest|recommend|list)"
_EN_SETS_OUT = (
    r"^\s{0,9}(?:(?:what|when|where|why|whom?|how"
    r"(?: (?:long|often|much|far|many (?:times|seconds|minutes|hours|days|weeks)))?) )?"
)
"""The beginning of a question in which nothing is named yet."""
_EN_OF_NOBODY = (
    r"(?:take|cost|mean|matter|help|make|seem|appear|happen|follow|require|pay|look|sound|feel|hurt"
    r"|get|rain|snow|say|call|speak|come)"
)
"""Verbs whose "it" or "they" stands for nothing: "does it take", "do they say"."""
_ENGLISH = _phrases(
    always=(
        rf"{_EN_SETS_OUT}(?:does|do|did) (?:it|he|she|they)\b(?! {_EN_OF_NOBODY}\b)",
        rf"\b(?:according to|based on|as {_EN_SAID} (?:in|by)|{_EN_SAID} (?:in|by)|from|in|per)"
        rf" (?:the|this) {_EN_TEXT}(?:{_END}|{_EN_ASKS})",
        rf"\b(?:does|did|do|as) (?:the|this) {_EN_TEXT} {_EN_SPEAKS}\b",
        rf"\bthe {_EN_TEXT} (?:says|states|mentions|describes|explains|claims|argues)\b",
        rf"\b(?:the|this) {_EN_TEXT} above\b",
        r"\b(?:the|this) (?:passage|excerpt)\b(?!\s{1,3}of (?:time|\w{1,30} (?:law|bill)))",
        r"\b(?:according to|does|did|by|would) the (?:author|writer)s?\b(?! of\b)",
        rf"\bthe author(?:'s|’s)? (?:{_EN_SPEAKS}s?|believes?|means?|opinion|view|point)\b",
        rf"\b(?:{_EN_SAID}|said|presented|provided) (?:above|below|earlier|here|previously)\b",
        rf"\bthe (?:above|provided|preceding|aforementioned) (?:{_EN_TEXT}|information|material"
        r"|table|figure|example|code|list)\b",
        r"\b(?:in|from|to|see) (?:figure|fig\.|table|equation|listing) \d{1,3}\b(?! of\b)",
        r"\bin (?:section|chapter|appendix) \d{1,3}(?:\.\d{1,3}){0,3}\b(?! of\b)",
    ),
    unless_shown=(
        rf"\bthe (?:given|following) (?:{_EN_TEXT}|information|material|table|figure|example|code"
        r"|list|sentence|diagram|quote|statement)s?\b",
        r"\b(?:in|from|of|to|by|does|is) this (?:text|passage|document|article|paragraph|snippet"
        r"|section|chapter|page|guide|table|figure|code|example|list|diagram|manual)\b",
        r"\b(?:in|from|does|of) the (?:table|figure|diagram|code|example) (?:above|below)\b",
    ),
)

_DE_TEXT = (
    r"(?:text|textes|textabschnitt|abschnitt|abschnitts|absatz|dokument|dokuments|auszug|passage"
    r"|artikel|kapitel|textstelle|kontext|ausschnitt)"
)
_GERMAN = _phrases(
    always=(
        rf"\b(?:laut|gemäß|nach|entsprechend) (?:dem|diesem|der|dieser) {_DE_TEXT}(?:{_END}|(?="
        r"\s{1,3}(?:was|welche\w{0,2}|wie|wer|wann|wo|warum|ist|sind|wird|werden)\b))",
        rf"\blaut {_DE_TEXT}\b",
        rf"\b(?:im|in dem|aus dem|in diesem|aus diesem|in der|in dieser) {_DE_TEXT}{_END}",
        rf"\bim {_DE_TEXT} (?:genannt|erwähnt|beschrieben|angegeben|erklärt|aufgeführt)\w{{0,2}}\b",
        rf"\b(?:obige|vorliegende|vorstehende|vorherige|bereitgestellte)[nmrs]? (?:{_DE_TEXT}"
        r"|tabelle|abbildung|beispiel|code|liste|informationen)\b",
        r"\b(?:oben|unten|zuvor|vorher|hier) (?:genannt|erwähnt|beschrieben|gezeigt|angegeben"
        r"|aufgeführt)\w{0,2}\b",
        r"\b(?:laut (?:dem |der )?|sagt der |meint der |nennt der )(?:autor|verfasser)(?:in)?\b",
        r"\bin (?:tabelle|abbildung|abschnitt|kapitel) \d{1,3}(?:\.\d{1,3}){0,3}\b"
        r"(?! (?:des|der)\b)",
    ),
    unless_shown=(
        rf"\b(?:folgende|nachfolgende|gegebene|angegebene)[nmrs]? (?:{_DE_TEXT}|tabelle|abbildung"
        r"|beispiel|code|liste|satz|aussagen?)\b",
        rf"\b(?:diese[mnrs]?) (?:{_DE_TEXT}|tabelle|abbildung|beispiel|anleitung|seite)\b",
    ),
)

_FR_TEXT = r"(?:texte|passage|document|extrait|article|paragraphe|contexte|chapitre)"
_FRENCH = _phrases(
    always=(
        rf"\b(?:selon|d['’]après|dans|suivant) (?:le|ce|cet) {_FR_TEXT}(?:{_END}|(?="
        r"\s{1,3}(?:que|quel\w{0,3}|comment|qui|quand|où|pourquoi|combien|est)\b))",
        rf"\b(?:selon|d['’]après|dans) (?:cet|cette|l['’]) ?(?:extrait|section|article){_END}",
        r"\b(?:selon|d['’]après) l['’]auteur(?:e)?\b",
        r"\bl['’](?:auteur|autrice) (?:dit|affirme|explique|pense)\b",
        r"\b(?:dit|affirme|explique|pense|recommande) l['’](?:auteur|autrice)\b",
        rf"\bque dit le {_FR_TEXT}\b",
        r"\bci-dessus\b|\b(?:mentionné|décrit|cité|indiqué)e?s? (?:plus haut|précédemment)\b",
        r"\b(?:dans|voir) (?:la figure|le tableau|la section) \d{1,3}\b",
    ),
    unless_shown=(
        rf"\b(?:ce|cet|cette) (?:{_FR_TEXT}|section|tableau|figure|page|exemple|guide)\b",
        r"\bci-(?:dessous|après)\b",
        rf"\b(?:{_FR_TEXT}|section|tableau|figure|code|exemple) suivante?s?\b",
    ),
)

_ES_TEXT = r"(?:texto|pasaje|documento|extracto|artículo|párrafo|contexto|fragmento|capítulo)"
_SPANISH = _phrases(
    always=(
        rf"\b(?:según|de acuerdo con|en|conforme a) (?:el|este) {_ES_TEXT}(?:{_END}|(?="
        r"\s{1,3}[¿]?(?:qué|cuál\w{0,2}|cómo|quién|cuándo|dónde|cuánt\w{2,3})\b))",
        r"\b(?:según|dice|afirma|menciona) (?:el autor|la autora)\b",
        rf"\b(?:dice|menciona|explica|afirma) el {_ES_TEXT}\b",
        r"\b(?:mencionad|descrit|citad|indicad|mostrad)[oa]s? (?:anteriormente|arriba|más arriba"
        r"|en el texto)\b",
        rf"\b(?:{_ES_TEXT}|tabla|figura|sección|información) (?:anterior|proporcionad[oa])\b",
        r"\ben (?:la figura|la tabla|la sección|el capítulo) \d{1,3}\b(?! del?\b)",
    ),
    unless_shown=(
        rf"\b(?:este|esta) (?:{_ES_TEXT}|sección|tabla|figura|página|ejemplo|guía)\b",
        rf"\b(?:siguiente) (?:{_ES_TEXT}|sección|tabla|figura|código|ejemplo|lista)\b",
    ),
)

_CHINESE = _phrases(
    always=(
        r"(?:根据|依据|按照|基于|参考)(?:上文|上述|本文|该文|文中|以上|这段|这篇|该段|原文|所给|给定|提供)",
        r"(?:根据|依据|按照|在)(?:文档|文章|文本|段落|材料|上下文)(?:内容|所述|中|里|描述)?(?=[，,：:？?。]|$)",
        r"(?:文中|上文|本文|原文|本节|本章|本文档|该文档|这篇文章|这段文字|该段落)",
        r"作者(?:认为|提到|指出|建议|描述|说)",
        r"(?:上述|上面|前面|前文)(?:提到|所述|描述|的(?:文本|文档|段落|内容|表格|代码|例子))",
        r"(?:上表|上图|如上所示)",
        r"(?:表|图)\s?\d{1,3}\s?(?:中|所示)",
    ),
    unless_shown=(
        r"(?:下表|下图|下文|下面的(?:文本|表格|代码|例子)|以下(?:文本|文档|段落|表格|代码))",
    ),
)

_JA_TEXT = r"(?:文章|文書|本文|テキスト|資料|ドキュメント|節|章|段落|抜粋|記事|文脈)"
_JAPANESE = _phrases(
    always=(
        rf"(?:この|上記の|前述の|与えられた|提供された|本){_JA_TEXT}",
        rf"{_JA_TEXT}(?:によると|によれば|に基づいて|で述べられて|に書かれて|で説明されて)",
        r"(?:本文|文中|文章中)(?:で|に|の|から)",
        r"(?:著者|筆者)(?:は|が|に|の)(?!名|一覧)",
        r"(?:上記|前述|先述)(?:の通り|のとおり|の説明|の内容|で)",
        r"(?:上の|上記の)(?:表|図|例|コード)",
        r"(?:表|図)\s?\d{1,3}\s?(?:で|に|の|から)",
    ),
    unless_shown=(rf"(?:次の|以下の|下の|この)(?:{_JA_TEXT}|表|図|例|コード)",),
)

PHRASES: Mapping[str, PointingPhrases] = {
    "English": _ENGLISH,
    "German": _GERMAN,
    "French": _FRENCH,
    "Spanish": _SPANISH,
    "Chinese": _CHINESE,
    "Japanese": _JAPANESE,
}
"""By the English name of the language."""
