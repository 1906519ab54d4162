"""The command `a2sf serve`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .. import _core
from . import create_app, require_packages
from ._arguments import engine_from, eviction_from, make_parser, options_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    given = vars(make_parser().parse_args(arguments))
    try:
        options, eviction = options_from(given), eviction_from(given)
        require_packages()
        from ._run import run

        app = create_app(engine_from(given, eviction), options)
        run(app, options, host=given["host"], port=given["port"])
    except _core.OptionError as error:
        print(f"a2sf: {error}\nTry 'a2sf serve --help'.", file=sys.stderr)
        return 2
    except _core.Error as error:
        print(f"a2sf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the model is loaded
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
