"""Whether bytes are one JSON value (RFC 8259) in UTF-8, without an object made of them.

A table of states, one step for each byte: what a byte costs hardly depends on what it is, so that
no value of a size is much dearer to look at than another (a reader that branches takes up to ten
times as long for what its branches cannot foresee). No recursion. Refused beside what is no JSON is
what no reader could make a value of: half of a pair of surrogates, a number that no double reaches
or that has thousands of digits, nesting without end. A name may come twice.
Specification: tests/twins/json_scan.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from engine.base import limits

ctypedef const unsigned char* Bytes

cdef uint64_t EACH = 0x0101010101010101

cdef enum:
    DEPTH_MAX = 512
    NUMBER_MAX = 4300  # characters
    STRINGS = 4  # the states in which a string is, which come first
    SORTS_MAX = 64
    STATES_MAX = 255
    # What a step leads to that is no state. All else is a state's row in the table.
    OPENS_ARRAY = 0xFFFC
    OPENS_OBJECT = 0xFFFD
    CLOSES = 0xFFFE
    WRONG = 0xFFFF

assert DEPTH_MAX == limits.json_depth_max
assert NUMBER_MAX == limits.json_number_length_max

cdef unsigned char SORTS[256]
cdef uint16_t STEPS[STATES_MAX * SORTS_MAX]
cdef bint ENDS[STATES_MAX]  # a value may end in it
cdef bint IN_NUMBER[STATES_MAX]
cdef bint IS_NUMERIC[256]
cdef uint16_t FIRST, ARRAY, ARRAY_BEHIND, OBJECT, OBJECT_BEHIND, BEHIND

cdef struct Scan:
    uint16_t state
    int depth
    uint16_t behind[DEPTH_MAX + 2]  # a value at each depth; above the depth it is noise
    bint is_too_long


def scan_json(bytes data not None):
    """None if it is JSON; otherwise where it is none any more, and in which state that is."""
    cdef Bytes begin = <Bytes>PyBytes_AS_STRING(data)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
    cdef Scan scan
    cdef Py_ssize_t first = 0
    cdef Py_ssize_t at = -1
    scan.depth = 0
    scan.is_too_long = False
    scan.state = FIRST
    scan.behind[0] = BEHIND
    with nogil:
        while first < length:
            at = _scan(&scan, begin, first, min(first + NUMBER_MAX, length))
            if at >= 0:
                break
            first += NUMBER_MAX
            if IN_NUMBER[scan.state // SORTS_MAX]:
                at = _long_number(begin, min(first, length), length)
                if at >= 0:
                    scan.is_too_long = True
                    break
        else:
            at = -1 if scan.depth == 0 and ENDS[scan.state // SORTS_MAX] else length
    if at < 0:
        return None
    if scan.is_too_long:
        return at, "number too long"
    if at < length and STEPS[scan.state + SORTS[begin[at]]] != WRONG:
        return at, "depth"
    return at, _NAMES[scan.state // SORTS_MAX]


cdef Py_ssize_t _long_number(Bytes begin, Py_ssize_t at, Py_ssize_t length) noexcept nogil:
    """Where the number begins that is there, if it is too long; otherwise -1."""
    cdef Py_ssize_t first = at
    while first > 0 and IS_NUMERIC[begin[first - 1]]:
        first -= 1
    while at < length and at - first <= NUMBER_MAX and IS_NUMERIC[begin[at]]:
        at += 1
    return first if at - first > NUMBER_MAX else -1


cdef Py_ssize_t _scan(
    Scan* scan, Bytes begin, Py_ssize_t first, Py_ssize_t length
) noexcept nogil:
    """Goes on from the first to the length. Where it went wrong, or -1."""
    cdef Bytes at = begin + first
    cdef Bytes end = begin + length
    cdef uint16_t* behind = scan.behind
    cdef int depth = scan.depth
    cdef uint16_t state = scan.state
    cdef uint16_t following
    while at < end:
        following = STEPS[state + SORTS[at[0]]]
        if following < OPENS_ARRAY:
            state = following
            at += 1
            # Long texts go by eights. Not tried at each byte: what a branch has to guess is dear.
            if <size_t>at % 8 == 0 and state < STRINGS * SORTS_MAX:
                while end - at >= 8 and _are_plain(at):
                    at += 8
            continue
        if following == WRONG or (depth == DEPTH_MAX and following != CLOSES):
            scan.state = state
            return at - begin
        # Which of the three it is, no branch asks: nobody can foresee it.
        behind[depth + 1] = ARRAY_BEHIND if following == OPENS_ARRAY else OBJECT_BEHIND
        depth += -1 if following == CLOSES else 1
        state = ARRAY if following == OPENS_ARRAY else OBJECT
        state = behind[depth] if following == CLOSES else state
        at += 1
    scan.depth = depth
    scan.state = state
    return -1


@cython.overflowcheck(False)  # the differences are meant to go below zero
cdef inline bint _are_plain(Bytes at) noexcept nogil:
    """Eight bytes that stand for themselves in a string: none is a control, a quotation mark, a
    backslash, or part of a longer character. A plain one beside such a byte may count as one."""
    cdef uint64_t eight
    memcpy(&eight, at, 8)
    return not (
        (
            eight
            | (eight - EACH * 0x20)
            | ((eight ^ EACH * 0x22) - EACH)
            | ((eight ^ EACH * 0x5C) - EACH)
        )
        & EACH * 0x80
    )


# ---- the table ----

_DIGITS = "0123456789"
_HEXADECIMAL = "0123456789abcdefABCDEF"
# Sorts of bytes: each byte of ASCII that JSON names is its own, and the rest by what they are.
_NAMED = '{}[]:,"\\/+-.0123456789abcdeflnrstuABCDEF'
_OTHERS = {
    "space": (0x20,),
    "gap": (0x09, 0x0A, 0x0D),  # between tokens, and not in a string
    "plain": range(0x21, 0x80),
    "80": range(0x80, 0x90),
    "90": range(0x90, 0xA0),
    "a0": range(0xA0, 0xC0),
    "c2": range(0xC2, 0xE0),
    "e0": (0xE0,),
    "e1": (*range(0xE1, 0xED), 0xEE, 0xEF),
    "ed": (0xED,),
    "f0": (0xF0,),
    "f1": range(0xF1, 0xF4),
    "f4": (0xF4,),
}
_WHERE = ("top", "array", "object")
_SPACE = ("space", "gap")
_REST = ("80", "90", "a0")  # of a character of more than one byte


def _states():
    """What each state does with a sort of byte: another state, or what is no state."""
    states = {}
    for where, separator, following, closing in (
        ("top", None, None, None),
        ("array", ",", "value in array", "]"),
        ("object", ",", "name", "}"),
    ):
        behind = f"behind in {where}"
        states[behind] = dict.fromkeys(_SPACE, behind)
        if closing:
            states[behind] |= {separator: following, closing: CLOSES}
        states |= _numbers(where, states[behind]) | _words(where, behind)
        states |= _strings(f"string in {where}", behind)
        value = f"value in {where}"
        states[value] = {
            **dict.fromkeys(_SPACE, value),
            "[": OPENS_ARRAY,
            "{": OPENS_OBJECT,
            '"': f"string in {where}",
            "-": f"minus in {where}",
            "0": f"zero in {where}",
            **dict.fromkeys("123456789", f"digits in {where}"),
            **{word[0]: f"{word[:1]} in {where}" for word in ("true", "false", "null")},
        }
    states["array"] = {**states["value in array"], **dict.fromkeys(_SPACE, "array"), "]": CLOSES}
    states["name"] = {**dict.fromkeys(_SPACE, "name"), '"': "string of name"}
    states["object"] = {**states["name"], **dict.fromkeys(_SPACE, "object"), "}": CLOSES}
    states["colon"] = {**dict.fromkeys(_SPACE, "colon"), ":": "value in object"}
    states |= _strings("string of name", "colon")
    inside = [state for state in states if state.startswith("string") and ":" not in state]
    return {state: states[state] for state in (*inside, *states)}


def _numbers(where, behind):
    exponent = dict.fromkeys("eE", f"e in {where}")
    return {
        f"minus in {where}": {
            "0": f"zero in {where}",
            **dict.fromkeys(_DIGITS[1:], f"digits in {where}"),
        },
        f"zero in {where}": {**behind, ".": f"point in {where}", **exponent},
        f"digits in {where}": {
            **behind,
            **dict.fromkeys(_DIGITS, f"digits in {where}"),
            ".": f"point in {where}",
            **exponent,
        },
        f"point in {where}": dict.fromkeys(_DIGITS, f"fraction in {where}"),
        f"fraction in {where}": {
            **behind,
            **dict.fromkeys(_DIGITS, f"fraction in {where}"),
            **exponent,
        },
        **_exponents(where, behind),
    }


def _exponents(where, behind):
    """One that is not negative is at most 308, as a double's is."""
    e, plus, minus = (f"{sign} in {where}" for sign in ("e", "plus", "minus of exponent"))
    any_left, two_left, one_left, none_left, three, thirty = (
        f"exponent {part} in {where}" for part in ("any", "two", "one", "none", "three", "thirty")
    )
    zeros = f"exponent zero in {where}"
    first = {
        "0": zeros,
        **dict.fromkeys("12", two_left),
        "3": three,
        **dict.fromkeys("456789", one_left),
    }
    return {
        e: {**first, "+": plus, "-": minus},
        plus: first,
        zeros: {**behind, **first},
        two_left: {**behind, **dict.fromkeys(_DIGITS, one_left)},
        one_left: {**behind, **dict.fromkeys(_DIGITS, none_left)},
        none_left: behind,
        three: {**behind, "0": thirty, **dict.fromkeys("123456789", none_left)},
        thirty: {**behind, **dict.fromkeys("012345678", none_left)},
        minus: dict.fromkeys(_DIGITS, any_left),
        any_left: {**behind, **dict.fromkeys(_DIGITS, any_left)},
    }


def _words(where, behind):
    return {
        f"{word[:at]} in {where}": {
            word[at]: behind if at + 1 == len(word) else f"{word[: at + 1]} in {where}"
        }
        for word in ("true", "false", "null")
        for at in range(1, len(word))
    }


def _strings(string, behind):
    """Of characters of more than one byte: the shortest form, no surrogate, not behind U+10FFFF."""
    last, two, three = (f"{string}: {left} bytes left" for left in (1, 2, 3))
    return {
        string: {
            "space": string,
            "plain": string,
            **dict.fromkeys(_NAMED, string),
            '"': behind,
            "\\": f"{string}: escape",
            "c2": last,
            **{sort: f"{string}: {sort}" for sort in ("e0", "ed", "f0", "f4")},
            "e1": two,
            "f1": three,
        },
        f"{string}: escape": {**dict.fromkeys('"\\/bfnrt', string), "u": f"{string}: u0"},
        **_escapes(string),
        last: dict.fromkeys(_REST, string),
        two: dict.fromkeys(_REST, last),
        three: dict.fromkeys(_REST, two),
        f"{string}: e0": {"a0": last},
        f"{string}: ed": {"80": last, "90": last},
        f"{string}: f0": {"90": two, "a0": two},
        f"{string}: f4": {"80": two},
    }


def _escapes(string):
    """Of a character by its number; half of a pair of surrogates has the other half behind it."""
    at = [f"{string}: u{number}" for number in range(4)]
    high = [f"{string}: high {number}" for number in range(5)]
    low = [f"{string}: low {number}" for number in range(4)]
    return {
        at[0]: {**dict.fromkeys(_HEXADECIMAL, at[1]), **dict.fromkeys("dD", high[0])},
        at[1]: dict.fromkeys(_HEXADECIMAL, at[2]),
        at[2]: dict.fromkeys(_HEXADECIMAL, at[3]),
        at[3]: dict.fromkeys(_HEXADECIMAL, string),
        high[0]: {**dict.fromkeys("01234567", at[2]), **dict.fromkeys("89abAB", high[1])},
        high[1]: dict.fromkeys(_HEXADECIMAL, high[2]),
        high[2]: dict.fromkeys(_HEXADECIMAL, high[3]),
        high[3]: {"\\": high[4]},
        high[4]: {"u": low[0]},
        low[0]: dict.fromkeys("dD", low[1]),
        low[1]: dict.fromkeys("cdefCDEF", low[2]),
        low[2]: dict.fromkeys(_HEXADECIMAL, low[3]),
        low[3]: dict.fromkeys(_HEXADECIMAL, string),
    }


def _fill():
    """The states above as numbers, each its row."""
    cdef int row, byte
    global FIRST, ARRAY, ARRAY_BEHIND, OBJECT, OBJECT_BEHIND, BEHIND
    sorts = {sort: number for number, sort in enumerate((*_NAMED, *_OTHERS, "control, or none"))}
    assert len(sorts) <= SORTS_MAX
    for byte in range(256):
        SORTS[byte] = len(sorts) - 1
    for sort, members in _OTHERS.items():
        for byte in members:
            SORTS[byte] = sorts[sort]
    for named in _NAMED:
        SORTS[ord(named)] = sorts[named]
    for byte in b"0123456789+-.eE":
        IS_NUMERIC[byte] = True
    states = _states()
    rows = {state: number * SORTS_MAX for number, state in enumerate(states)}
    assert len(rows) <= STATES_MAX
    for row in range(STATES_MAX * SORTS_MAX):
        STEPS[row] = WRONG
    for state, steps in states.items():
        row = rows[state]
        # Where it may go on with white space behind a value that is in nothing, it may end as well.
        ENDS[row // SORTS_MAX] = steps.get("space") == "behind in top"
        IN_NUMBER[row // SORTS_MAX] = any(state in _numbers(where, {}) for where in _WHERE)
        for sort, following in steps.items():
            STEPS[row + <int>sorts[sort]] = rows[following] if following in rows else following
    FIRST, BEHIND = rows["value in top"], rows["behind in top"]
    ARRAY, ARRAY_BEHIND = rows["array"], rows["behind in array"]
    OBJECT, OBJECT_BEHIND = rows["object"], rows["behind in object"]
    return tuple(states)


_NAMES = _fill()
