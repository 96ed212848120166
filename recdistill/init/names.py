"""What column names of click logs usually mean. A name is a hint: values decide where they can."""

from __future__ import annotations

import itertools
import re

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+[a-z]*")


def _these(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KEY = _these("id ids idx key hash no")
LABEL = _these(
    "label click clicked clk isclick target y converted conversion purchase purchased bought liked installed"
)
RATING = _these("rating ratings star stars score overall")
TIME = _these("time timestamp ts datetime date created utc")
ORDER = _these("seq sequence step")
BIRTH = _these(
    "created creation signup register registered registration birth born release released publish published updated"
)
"""Of times: when a user or an item began, and not when it was shown."""
USER = _these(
    "user userid uid customer visitor visitorid member viewer reader buyer reviewer client account person msno"
)
ITEM = _these(
    "item itemid iid article movie film product ad adid advert adgroup creative banner news song track video photo "
    "book game app doc document content sku asin isbn post job listing hotel restaurant business venue poi place "
    "recipe anime title episode artist course coupon deal"
)
EXAMPLE = _these("example impression row event uuid guid")
WEIGHT = _these("weight sampleweight")
VISIT = _these("session request trace visit pageview")
"""Things that come once and never again."""
CATEGORY = _these(
    "id code type group class category cat genre region country city state zip zipcode postcode os device browser "
    "language lang hour weekday dow month domain site channel slot gender occupation segment bucket brand c"
)
"""`c` and, below, `i` as Criteo names its columns: C1 to C26, I1 to I13."""
QUANTITY = _these(
    "age price cost count cnt num n views clicks size length duration distance total amount rate ratio ctr avg mean "
    "sum min max days hours minutes seconds year score impressions visits freq frequency rank income lat lon i"
)
HISTORY = _these("hist history prev previous last past before ago prior ever")
FEEDBACK = _these(
    "like liked dislike disliked follow followed share shared comment commented forward forwarded repost retweet reply "
    "hate report skip skipped favorite favourite fav collect collected save saved bookmark cart download subscribe "
    "enter buy bought ordered finish finished"
)
"""What else people do with what they are shown; `item_likes`, a count, may be known before."""
POSITION = _these("position pos")
PREDICTED = _these("pctr pcvr predicted prediction")
AFTERWARDS = _these("dwell revenue purchase purchased conversion converted outcome refund watched completed")
AFTERWARDS_PAIRS = frozenset(
    {("session", "size"), ("session", "length"), ("session", "duration"), ("time", "spent"), ("order", "value")}
    | {("long", "view"), ("effective", "view")}
    | set(
        itertools.product(
            _these("watch watching play playing read reading stay view viewing"),
            _these("time times duration ratio seconds sec ms percent progress"),
        )
    )
)


def words(name: str) -> list[str]:
    """The lower-case words of a name: `click_deviceGroup` is click, device, group; `1h` stays together."""
    return [part.lower() for part in _PARTS.findall(name)]


def mentions(name: str, hints: tuple[str, ...]) -> bool:
    """Whether one of a name's words is a hint."""
    return not set(hints).isdisjoint(words(name))


def subject(name: str) -> str | None:
    """What a name of one thing names: `user` for `user`, `user_id`, `UserKey`; None for `user_views`."""
    rest = [word for word in words(name) if word not in _KEY]
    return rest[0] if len(rest) == 1 else None


def known_afterwards(name: str, yes_or_no: bool) -> bool:
    """Whether a name tells of something that is known only after the impression; `yes_or_no` is what it holds."""
    if mentions(name, HISTORY):
        return False
    paired = any(pair in AFTERWARDS_PAIRS for pair in itertools.pairwise(words(name)))
    told = mentions(name, FEEDBACK + LABEL) and words(name)[0] != "target"  # such as `target_gender`
    return paired or mentions(name, AFTERWARDS) or (yes_or_no and told)


def served_otherwise(name: str) -> str | None:
    """What to ask about a column that may be there in a log and not, or not the same, when a student serves."""
    if mentions(name, HISTORY):
        return None
    if mentions(name, PREDICTED):
        return "by its name what another model said; is that there, and the same, when the student serves?"
    if mentions(name, POSITION):
        return "by its name where the item was shown; is that known before items are ranked? If not, leave it out"
    return None
