"""The constants of the mathematical functions in emitted C++, in float32 and in float64.

The polynomials, but for that of exp, are those of `tools/fit_polynomials.py`: minimax, lowest coefficient first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Numbers:
    """What differs between the types.

    Args:
        s: of `float` or of `double` in the names of instructions.
        mask, lane: the type of a mask of lanes, and the letter of integer lanes.
        suffix: of the C library's functions.
        bits, bias: how far the exponent is shifted, and its value for 1.
        magic: adding it rounds to an integer.
        least, lift, lift_bits: the least normal number, and a power of two that makes smaller ones normal.
        half_root, mantissa, magnitude: bits of sqrt(1/2), those of the fraction, and all but the sign.
        exp_range, exp2_range: beyond it the result is 0 or infinite.
        ln2: in two parts, of which the first times any exponent is exact.
        far: |x| up to which sin and cos are reduced by the three parts of pi / 2.
        exp, exp2, log, sin, cos, tanh, atan: polynomials; what they approximate stands at the function.
    """

    s: str
    mask: str
    lane: str
    suffix: str
    bits: int
    bias: str
    magic: str
    least: str
    lift: str
    lift_bits: str
    half_root: str
    mantissa: str
    magnitude: str
    exp: tuple[str, ...]
    exp_range: tuple[str, str]
    exp2: tuple[str, ...]
    exp2_range: tuple[str, str]
    ln2: tuple[str, str]
    log2e: str
    log: tuple[str, ...]
    far: str
    half_pi: tuple[str, str, str]
    two_over_pi: str
    sin: tuple[str, ...]
    cos: tuple[str, ...]
    tanh: tuple[str, ...]
    atan: tuple[str, ...]
    half_pi_rest: str


FLOAT = Numbers(
    s="ps",
    mask="unsigned short",
    lane="d",
    suffix="f",
    bits=23,
    bias="127",
    magic="12582912.0f",
    least="1.17549435e-38f",
    lift="33554432.0f",
    lift_bits="25",
    half_root="0x3f3504f3",
    mantissa="0x007fffff",
    magnitude="0x7fffffff",
    exp=("0.49999993432f", "0.16666520397f", "0.041668390831f", "0.0083687453200f", "0.0013814537893f"),
    exp_range=("-105.0f", "90.0f"),
    exp2=(
        "0.693147215f",
        "0.2402265278f",
        "0.05550310552f",
        "0.009617693255f",
        "0.001340664357f",
        "0.0001559460441f",
    ),
    exp2_range=("-152.0f", "129.0f"),
    ln2=("0.693359375f", "-2.12194440e-4f"),
    log2e="1.44269504f",
    log=("0.6666666655f", "0.4000012271f", "0.285507414f", "0.2333226775f"),
    far="100000.0f",
    half_pi=("1.57079637f", "-4.37113883e-8f", "-1.71512489e-15f"),
    two_over_pi="0.636619772f",
    sin=("-0.1666665485f", "0.008332172279f", "-0.0001951647959f"),
    cos=("0.04166664672f", "-0.001388735991f", "2.443754516e-5f"),
    tanh=("-0.3333328022f", "0.133313837f", "-0.05373400417f", "0.02061813392f", "-0.005679314346f"),
    atan=("-0.3333331547f", "0.1999848684f", "-0.1424379634f", "0.1059559031f", "-0.06082354174f"),
    half_pi_rest="-4.37113883e-8f",
)

DOUBLE = Numbers(
    s="pd",
    mask="unsigned char",
    lane="q",
    suffix="",
    bits=52,
    bias="1023LL",
    magic="6755399441055744.0",
    least="2.2250738585072014e-308",
    lift="18014398509481984.0",
    lift_bits="54",
    half_root="0x3fe6a09e667f3bcdLL",
    mantissa="0x000fffffffffffffLL",
    magnitude="0x7fffffffffffffffLL",
    exp=(
        "0.49999999999999395",
        "0.16666666666663177",
        "0.04166666666704541",
        "0.008333333335500468",
        "0.001388888882072706",
        "0.0001984126519960635",
        "2.4801609106552162e-05",
        "2.756141042566804e-06",
        "2.759237967806748e-07",
        "2.3796479232995848e-08",
    ),
    exp_range=("-746.0", "710.0"),
    exp2=(
        "0.693147180559945697",
        "0.24022650695910098",
        "0.0555041086647903893",
        "0.009618129107607002",
        "0.0013333558153441335",
        "0.000154035304415726002",
        "1.52527273838722483e-05",
        "1.32154426751148779e-6",
        "1.0180648196634994e-7",
        "7.07257044561083669e-9",
        "4.0779938457108778e-10",
    ),
    exp2_range=("-1080.0", "1026.0"),
    ln2=("0.693147180369123816490", "1.90821492927058770002e-10"),
    log2e="1.4426950408889634",
    log=(
        "0.666666666666666973",
        "0.399999999998985089",
        "0.285714286263706299",
        "0.222222110774591011",
        "0.181828928848378195",
        "0.153316079980564829",
        "0.146177367900730009",
    ),
    far="1073741824.0",
    half_pi=("1.5707963267948966", "6.123233995736766e-17", "-1.4973849048591833e-33"),
    two_over_pi="0.6366197723675814",
    sin=(
        "-0.166666666666666666",
        "0.00833333333333332267",
        "-0.000198412698412549483",
        "2.75573192141271661e-6",
        "-2.50521048947760238e-8",
        "1.60583644454703726e-10",
        "-7.57858779992343531e-13",
    ),
    cos=(
        "0.0416666666666665985",
        "-0.00138888888888739503",
        "2.48015872893684161e-5",
        "-2.75573143180409526e-7",
        "2.08757184305810891e-9",
        "-1.1359388225370841e-11",
    ),
    tanh=(
        "-0.333333333333333101",
        "0.133333333333292925",
        "-0.053968253965805846",
        "0.0218694884616808458",
        "-0.00886323419973609427",
        "0.00359211286827235892",
        "-0.00145571855118648005",
        "0.000589419785019623962",
        "-0.000236920756292186628",
        "9.13952702698445183551e-5",
        "-3.00198494735089038e-5",
        "5.96761089051101774e-6",
    ),
    atan=(
        "-0.333333333333331984",
        "0.199999999999538775",
        "-0.142857142802269237",
        "0.111111107850135032",
        "-0.0909089780292542352",
        "0.0769206102122046665",
        "-0.0666311317666667198",
        "0.0584795507653015531",
        "-0.0503959702408148994",
        "0.0380718669173540484",
        "-0.0179150660178614232",
    ),
    half_pi_rest="6.123233995736766e-17",
)
