"""How well two colours can be told apart, by normal and by colour-blind eyes."""

import numpy as np

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), the
# whole of the deficiency, on linear RGB
EYES = {
    "normal": np.eye(3),
    "deuteranopic": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopic": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def _linear(colour):
    values = np.array(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Of WCAG 2: 1 for equal colours, 21 for black and white."""
    low, high = sorted(float(_LUMINANCE @ _linear(each)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(colour, eye):
    """CIE L*a*b* of what an eye sees, under D65."""
    seen = np.clip(np.array(EYES[eye]) @ _linear(colour), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], _LUMINANCE, [0.0193, 0.1192, 0.9505]]) @ seen / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other, eye):
    """How different two colours are to an eye (CIE 1976)."""
    return float(np.linalg.norm(lab(one, eye) - lab(other, eye)))
