"""The languages whose documents a corpus may hold."""

from __future__ import annotations

from fusebert.errors import UsageError

AUTO, OTHER = "auto", "other"
"""The script of each document decides; or any language that is not here, by the rules of English."""
TWO_LETTERS = """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
    et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki
    kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no
    nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te
    tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
"""ISO 639-1."""
THREE_LETTERS = """
    aae acm aeb als alt anp apc arn arq ary arz ast atj avk awa bar bci blk bpy bxr csb dsb dua egl eml ext fit fon frc
    frp frr fur gcf gcr gld gsw guc hke hrx hsb hyw inh jut kaa kab kbp kea kjh kjp koi krc krl ksh ksw kum lad lbe lez
    lij lld lmo lua mag mai mdf mhr mnw mrj mwl myv nah nap nds olo pcd pdc pdt pfl pms pnt qug rgn rue rut sah scn sdc
    ses shy sjd sli smn sro srn stq sty szl tcy tet tyv udm vec vls vmf vmw vot wls xal
"""
"""ISO 639-3, where sentencex 1.0.32 has other rules than those of English."""
CODES = frozenset((*TWO_LETTERS.split(), *THREE_LETTERS.split()))
EXAMPLES = "en, zh, ja, ar, cs, de, el, es, fi, fr, hi, it, nl, pl, pt, ru, ta, tr, uk"


def language_code(given: str) -> str:
    """`auto`, `other` or a code, in small letters and without a region: `zh` for zh-CN.

    Raises:
        UsageError: it is none.
    """
    code = given.strip().lower().replace("_", "-").split("-")[0]
    if code not in (AUTO, OTHER) and code not in CODES:
        raise UsageError(
            f"--language: {given!r} is not known; write {AUTO}, a code of ISO 639 ({EXAMPLES}, ...), or {OTHER} for "
            "the rules of English"
        )
    return code
