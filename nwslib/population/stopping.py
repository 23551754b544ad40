"""When a network stops: the study's three rules on validation accuracy."""

from dataclasses import dataclass

FIRST = 20
TOLERANCE = 1e-8


@dataclass
class Stopping:
    """Counts of one network, brought up to date at each evaluation.

    Notes
    -----
    The rules of Eilertsen et al. as their code has them: from the 20th evaluation on a network stops when validation
    accuracy fell 5 times without a rise between, was below its running average 30 times in all, or did not change 30
    times in a row.

    Examples
    --------
    >>> stopping = Stopping()
    >>> [stopping.update(0.5) for _ in range(31)][-1]
    'validation accuracy unchanged 30 times in a row'
    """

    evaluations: int = 0
    previous: float = 0.0
    average: float = 0.0
    worse: int = 0
    below: int = 0
    unchanged: int = 0

    def update(self, accuracy: float) -> str | None:
        """Take in one evaluation.

        Parameters
        ----------
        accuracy
            On the validation images, 0 to 1.

        Returns
        -------
        str or None
            The rule that says stop, or None to go on.
        """
        if self.evaluations == 0:
            self.previous = self.average = accuracy
        else:
            self._count(accuracy)
        self.evaluations += 1
        return self._rule() if self.evaluations >= FIRST else None

    def _count(self, accuracy: float) -> None:
        change = accuracy - self.previous
        self.average = (self.average + accuracy) / 2
        self.below += accuracy < self.average
        if abs(change) <= TOLERANCE:
            self.unchanged += 1
        else:
            self.unchanged = 0
            self.worse = self.worse + 1 if change < 0 else 0
        self.previous = accuracy

    def _rule(self) -> str | None:
        if self.worse >= 5:
            return "validation accuracy fell 5 times without a rise between"
        if self.below >= 30:
            return "validation accuracy below its running average 30 times"
        if self.unchanged >= 30:
            return "validation accuracy unchanged 30 times in a row"
        return None
