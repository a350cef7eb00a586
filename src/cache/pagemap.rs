//! The pages of one file, by number.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use crate::format::PageNo;

/// A map by page number. The one page of a small file, which most files are, lies in place: it takes no block of its own, and is
/// found where the file is.
#[derive(Debug)]
pub(super) enum PageMap<V> {
    One(PageNo, V),
    /// None, or several.
    Others(BTreeMap<PageNo, V>),
}

impl<V> Default for PageMap<V> {
    fn default() -> PageMap<V> {
        PageMap::Others(BTreeMap::new())
    }
}

impl<V> PageMap<V> {
    pub fn get(&self, no: PageNo) -> Option<&V> {
        match self {
            PageMap::One(one, page) => (*one == no).then_some(page),
            PageMap::Others(pages) => pages.get(&no),
        }
    }

    pub fn get_mut(&mut self, no: PageNo) -> Option<&mut V> {
        match self {
            PageMap::One(one, page) => (*one == no).then_some(page),
            PageMap::Others(pages) => pages.get_mut(&no),
        }
    }

    /// Puts in a page, in place of one with its number.
    pub fn insert(&mut self, no: PageNo, page: V) {
        match std::mem::take(self) {
            PageMap::One(one, old) if one != no => {
                *self = PageMap::Others(BTreeMap::from([(one, old), (no, page)]));
            }
            PageMap::Others(mut pages) if !pages.is_empty() => {
                pages.insert(no, page);
                *self = PageMap::Others(pages);
            }
            _ => *self = PageMap::One(no, page),
        }
    }

    pub fn remove(&mut self, no: PageNo) -> Option<V> {
        match self {
            PageMap::Others(pages) => pages.remove(&no),
            PageMap::One(one, _) if *one != no => None,
            PageMap::One(..) => match std::mem::take(self) {
                PageMap::One(_, page) => Some(page),
                PageMap::Others(_) => None,
            },
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        match self {
            PageMap::One(..) => 1,
            PageMap::Others(pages) => pages.len(),
        }
    }

    /// The pages of a range that is not empty, in order.
    pub fn range(&self, range: impl RangeBounds<PageNo>) -> impl Iterator<Item = (PageNo, &V)> {
        let (one, others) = match self {
            PageMap::One(no, page) => (Some((*no, page)).filter(|_| range.contains(no)), None),
            PageMap::Others(pages) => (None, Some(pages.range(range))),
        };
        one.into_iter().chain(others.into_iter().flatten().map(|(no, page)| (*no, page)))
    }

    /// All pages, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PageNo, &V)> {
        self.range(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_one_and_several_are_kept_as_in_a_tree() {
        let mut map = PageMap::default();
        let mut tree = BTreeMap::new();
        let steps: [(u32, bool); 14] = [
            (3, true),
            (3, true),
            (4, false),
            (5, true),
            (1, true),
            (3, false),
            (5, false),
            (1, false),
            (1, false),
            (7, true),
            (7, false),
            (2, true),
            (2, true),
            (9, true),
        ];
        for (step, (no, put)) in steps.into_iter().enumerate() {
            let no = PageNo(no);
            if put {
                map.insert(no, step);
                tree.insert(no, step);
            } else {
                assert_eq!(map.remove(no), tree.remove(&no));
            }
            assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
            assert!(map.iter().eq(tree.iter().map(|(no, value)| (*no, value))), "{map:?} {tree:?}");
            let (from, to) = (PageNo(2), PageNo(5));
            assert!(map.range(from..to).eq(tree.range(from..to).map(|(no, value)| (*no, value))));
            for no in (0..10).map(PageNo) {
                assert_eq!(map.get(no), tree.get(&no));
                assert_eq!(map.get_mut(no), tree.get_mut(&no));
            }
        }
    }
}
