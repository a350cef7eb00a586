//! A queue that can be left anywhere.

use std::collections::VecDeque;

/// Items in the order of their turns: numbers that rise, each given once. Nearly all come with a turn behind all others.
/// To leave takes a search for the turn, and touches no neighbour.
#[derive(Debug)]
pub struct Queue<T> {
    /// By turn; none where an item has left.
    items: VecDeque<(u64, Option<T>)>,
    /// How many have left.
    gaps: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { items: VecDeque::new(), gaps: 0 }
    }
}

impl<T: Copy> Queue<T> {
    /// More gaps than this, and than items, are closed.
    const GAPS: usize = 64;

    /// Room for so many items is never given back.
    const SPARE: usize = 1024;

    fn place(&self, turn: u64) -> Result<usize, usize> {
        self.items.binary_search_by_key(&turn, |(turn, _)| *turn)
    }

    /// Puts an item in, at its turn; in place of one that has it.
    pub fn push(&mut self, turn: u64, item: T) {
        if self.items.back().is_none_or(|(last, _)| *last < turn) {
            return self.items.push_back((turn, Some(item)));
        }
        match self.place(turn) {
            Ok(place) => self.gaps -= usize::from(self.items[place].1.replace(item).is_none()),
            Err(place) => self.items.insert(place, (turn, Some(item))),
        }
    }

    /// Takes out the item with a turn, when there is one.
    pub fn remove(&mut self, turn: u64) {
        let Ok(place) = self.place(turn) else { return };
        self.gaps += usize::from(self.items[place].1.take().is_some());
        while let Some((_, None)) = self.items.front() {
            self.items.pop_front();
            self.gaps -= 1;
        }
        if self.gaps > Self::GAPS && self.gaps > self.len() {
            self.items.retain(|(_, item)| item.is_some());
            self.gaps = 0;
        }
        // What a lower limit has emptied is given back.
        if self.items.capacity() > 4 * self.items.len() + Self::SPARE {
            self.items.shrink_to(2 * self.items.len());
        }
    }

    /// The item whose turn it is.
    pub fn first(&self) -> Option<T> {
        // Gaps at the front are closed at once.
        self.items.front()?.1
    }

    pub fn len(&self) -> usize {
        self.items.len() - self.gaps
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items with their turns, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, T)> {
        self.items.iter().filter_map(|(turn, item)| Some((*turn, (*item)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_come_and_leave_as_in_a_tree(steps in prop::collection::vec((any::<bool>(), 0..400_u64), 1..1000)) {
            let (mut queue, mut tree, mut last) = (Queue::default(), BTreeMap::new(), 0);
            for (step, (comes, turn)) in steps.into_iter().enumerate() {
                if comes {
                    // Two of three come last, the others back to a turn that was theirs.
                    let turn = if step % 3 == 0 { turn.min(last) } else { last + 1 };
                    last = last.max(turn);
                    queue.push(turn, step);
                    tree.insert(turn, step);
                } else {
                    let turn = if step % 2 == 0 { turn } else { tree.keys().next().copied().unwrap_or(0) };
                    queue.remove(turn);
                    tree.remove(&turn);
                }
                prop_assert!(queue.iter().eq(tree.iter().map(|(turn, item)| (*turn, *item))));
                prop_assert_eq!((queue.len(), queue.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert_eq!(queue.first(), tree.values().next().copied());
                prop_assert!(queue.gaps <= Queue::<usize>::GAPS.max(queue.len()));
            }
        }
    }

    #[test]
    fn an_emptied_queue_gives_its_memory_back() {
        let mut queue = Queue::default();
        (0..100_000).for_each(|turn| queue.push(turn, turn));
        (0..99_990).for_each(|turn| queue.remove(turn));
        assert!(queue.items.capacity() < 2 * Queue::<u64>::SPARE, "{}", queue.items.capacity());
        assert!(queue.iter().map(|(_, item)| item).eq(99_990..100_000));
    }
}
