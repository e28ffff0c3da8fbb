"""What the scaling-law paper (arXiv 2512.13472) publishes: surfaces, transfer between languages, its optimised mixture.

N is in billions of parameters, D in billions of tokens, losses are in nats per token. The paper measures 0.09 <= N <= 3.1
and 2 <= D <= 64; anything beyond is extrapolated. AVERAGE names the surface of the mean losses.
"""

AVERAGE = 'Average'

# Figure 2: A, aN, B, aD, Linf of `A N^-aN + B D^-aD + Linf`, read from its vector art. A fit of its points gives the same.
SURFACES = {
    'Python': (0.22089, 0.22086, 2.8569, 1.26429, 0.37606),
    'Java': (0.12725, 0.47426, 4.67777, 1.20901, 0.59958),
    'JavaScript': (0.02958, 0.69752, 2.73113, 1.28796, 0.43113),
    'TypeScript': (0.06361, 0.43453, 2.81085, 1.34838, 0.39891),
    'C#': (0.08001, 0.32199, 2.14374, 1.3985, 0.22055),
    'Go': (0.02924, 0.85765, 1.99, 1.20714, 0.31606),
    'Rust': (0.02753, 0.65596, 2.23423, 1.35342, 0.3128),
    AVERAGE: (0.06357, 0.50921, 2.76975, 1.2804, 0.39834),
}

# Relative gain in percent of the row's language from data of the column's; a negative one hurts.
_LANGUAGES = ('Python', 'Java', 'JavaScript', 'TypeScript', 'C#', 'Go', 'Rust')
_GAINS = {
    'Python': (0.0, 1.36, -1.12, -0.95, -1.69, -2.13, -2.72),
    'Java': (6.02, 0.0, 12.62, 12.08, 20.58, 10.68, 12.41),
    'JavaScript': (5.49, 2.98, 0.0, 4.69, 2.44, 1.34, 2.56),
    'TypeScript': (4.17, 2.29, 3.34, 0.0, 1.68, 1.39, 1.18),
    'C#': (3.84, 1.93, 3.10, 3.71, 0.0, 1.87, 1.98),
    'Go': (4.77, 2.95, 2.70, 4.41, 2.95, 0.0, 2.86),
    'Rust': (3.87, 2.89, 4.20, 4.05, 2.81, 2.80, 0.0),
}
# {target: {helper: tau}}, as fractions.
TRANSFER = {
    target: {helper: gain / 100 for helper, gain in zip(_LANGUAGES, gains, strict=True) if helper != target}
    for target, gains in _GAINS.items()
}

# The optimised allocation p* of the paper, for all seven languages.
ALLOCATION = {
    'Python': 0.2193, 'Java': 0.1589, 'JavaScript': 0.1263, 'TypeScript': 0.1176, 'C#': 0.1043, 'Go': 0.1307,
    'Rust': 0.1429,
}  # fmt: skip
