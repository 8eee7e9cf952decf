"""`ratchet`, and `python -m agent`: signals are taken over before anything large is imported."""

from agent import signals


def main() -> None:
    signals.install()
    try:
        from agent.cli.main import main as run

        run()
    except KeyboardInterrupt:
        signals.end()


if __name__ == "__main__":
    main()
