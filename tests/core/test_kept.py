from core.kept import Kept


def test_it_is_made_once_for_an_object_and_anew_for_an_equal_one() -> None:
    made = list[list[int]]()

    def make(key: list[int]) -> int:
        made.append(key)
        return len(made)

    kept = Kept(make)
    first, second = [1], [1]
    assert [kept.of(first), kept.of(first), kept.of(second), kept.of(first)] == [1, 1, 2, 1]
    assert made[0] is first and made[1] is second


def test_an_object_lives_while_what_was_made_of_it_is_kept() -> None:
    kept = Kept[list[int], int](lambda key: key[0])
    assert {kept.of([number]) for number in range(100)} == set(range(100))


def test_so_many_are_kept() -> None:
    kept = Kept[tuple[int], tuple[int]](lambda key: key)
    for number in range(10_001):
        kept.of((number,))
    assert len(kept._kept) == 1
