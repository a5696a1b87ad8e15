"""What a gazetteer finds, by hand."""

from collections import Counter

from benchmarks.baselines import looked_up


def test_the_longest_known_entity_of_its_most_frequent_type():
    types = {('new', 'york'): Counter(location=2, group=3), ('york',): Counter(location=1),
             ('new', 'york', 'times'): Counter(group=1)}
    words = 'york the new york times in new york new'.split()
    assert looked_up(words, types) == ['B-location', 'O', 'B-group', 'I-group', 'I-group', 'O',
                                       'B-group', 'I-group', 'O']
