"""Makes the README's picture from the demo's runs: `make demo`, then `python docs/images/make.py`."""

from __future__ import annotations

from pathlib import Path

from zowarmup.report import bands, load_grid

HERE = Path(__file__).parent
NAMES = {
    "digits": "ZOWarmUp",
    "digits-high-res-only": "High-Res-Only",
    "digits-zo-scratch": "no warm-up",
    "digits-fedavg": "FedAvg with all",
}


def main() -> None:
    """Write digits.svg: two panels side by side, on white."""
    demo = HERE.parents[1] / "runs" / "demo"
    (split,) = load_grid({label: sorted((demo / name).iterdir()) for name, label in NAMES.items()}).splits
    panels = {
        "Accuracy by round": bands.by_round(split, "accuracy", "accuracy by round"),
        "Accuracy by what a low-resource client sends": bands.by_uplink(split, "accuracy", "accuracy by uplink"),
    }
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 740 268" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The demo: accuracy of four methods on the digits">',
        '<rect width="740" height="268" rx="8" fill="white"/>',
    ]
    for index, (title, svg) in enumerate(panels.items()):
        left = 10 + 370 * index
        parts.append(f'<text x="{left}" y="24" font-size="13" font-weight="600" fill="#1c2430">{title}</text>')
        assert svg is not None
        parts.append(svg.replace("<svg ", f'<svg x="{left}" y="36" width="350" height="225" ', 1))
    (HERE / "digits.svg").write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
