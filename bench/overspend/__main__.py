"""How far does a crowd get beyond a cap? The experiment, on Spendgate and on what it is compared with.

    python -m bench.overspend                       # Spendgate, all variants
    python -m bench.overspend --only plain --only killed
    python -m bench.overspend --against litellm     # both, row by row

The upstream is the simulator that ships; what it billed is what counts. Exit code 1 if Spendgate broke a promise.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.overspend.experiment import Result, run_variant
from bench.overspend.litellm import LiteLLM, install
from bench.overspend.product import Product
from bench.overspend.spendgate import Spendgate
from bench.overspend.table import table
from bench.overspend.upstream import running_upstream
from bench.overspend.variants import VARIANTS, Variant


def main() -> int:
    """Run what was asked for; 1 if Spendgate broke a promise."""
    options = _options()
    if options.install_litellm:
        install()
        return 0
    products = _products(options)
    variants = [v for v in VARIANTS if not options.only or v.name in options.only]
    conditions = _conditions(products)
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()), end="\n\n")
    results = _run_all(products, variants)
    print(table(results))
    if options.json:
        report = {"conditions": conditions, "results": [result.as_dict() for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    broken = [r for r in results if r.product == Spendgate.name and r.broken_promise]
    for result in broken:
        print(f"BROKEN PROMISE in {result.variant.name}: {result.broken_promise}")
    return 1 if broken else 0


def _products(options: argparse.Namespace) -> list[Product]:
    """Those asked for that can run here; what is missing is said."""
    asked: list[Product] = [] if options.alone else [Spendgate()]
    if options.against:
        asked.append(LiteLLM())
    for product in asked:
        if missing := product.missing():
            print(f"{product.name}: {missing}", file=sys.stderr)
    return [product for product in asked if not product.missing()]


def _run_all(products: Sequence[Product], variants: Sequence[Variant]) -> list[Result]:
    results = []
    with running_upstream() as upstream:
        for variant in variants:
            for product in products:
                print(f"{variant.name}, {product.name}: ", end="", file=sys.stderr, flush=True)
                results.append(run_variant(product, upstream, variant))
                print(f"the bill is {results[-1].bill_to_cap:.3f} of the cap", file=sys.stderr)
    return results


def _conditions(products: Sequence[Product]) -> dict[str, str]:
    versions = {product.name: product.version() for product in products}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": date, "machine": machine, "Python": platform.python_version(), **versions}


def _options() -> argparse.Namespace:
    names = [variant.name for variant in VARIANTS]
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.overspend", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--against", choices=["litellm"], help="compare with this gateway too")
    parser.add_argument("--alone", action="store_true", help="leave Spendgate out")
    parser.add_argument(
        "--install-litellm", action="store_true", help="install it into an environment of its own, and end"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
