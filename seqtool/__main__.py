"""Entry point of ``seqtool`` and ``python -m seqtool``."""


def main() -> None:
    """Run the command line, which takes a moment to load: Ctrl-C works from the first one."""
    try:
        from seqtool.cli import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
