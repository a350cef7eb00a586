//! Values by key, in the order in which they were put.

use std::collections::HashMap;
use std::hash::Hash;

use smallvec::SmallVec;

/// A list of values by key. They are few in nearly every change, and then looked at one by one.
#[derive(Debug)]
pub(super) struct Listed<K, V> {
    list: SmallVec<[(K, V); 2]>,
    /// Where each key stands, once they are many. In a block of its own: lists are moved often, and nearly never have it.
    #[expect(clippy::box_collection, reason = "eight bytes to move, where a map is 48")]
    places: Option<Box<HashMap<K, usize>>>,
}

impl<K, V> Default for Listed<K, V> {
    fn default() -> Listed<K, V> {
        Listed { list: SmallVec::new(), places: None }
    }
}

impl<K: Copy + Eq + Hash, V> Listed<K, V> {
    /// More keys than this are found by their hash.
    const FEW: usize = 16;

    fn find(&self, key: &K) -> Option<usize> {
        if self.list.len() <= Self::FEW {
            self.list.iter().position(|(other, _)| other == key)
        } else {
            self.places.as_ref()?.get(key).copied()
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        Some(&self.list.get(self.find(key)?)?.1)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.find(key)?;
        Some(&mut self.list.get_mut(place)?.1)
    }

    /// The value of a key, put there when there is none and it can be had.
    pub fn get_or_try_put<E>(&mut self, key: K, value: impl FnOnce() -> Result<V, E>) -> Result<&mut V, E> {
        let place = match self.find(&key) {
            Some(place) => place,
            None => {
                self.push(key, value()?);
                self.list.len() - 1
            }
        };
        Ok(&mut self.list[place].1)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: K, value: V) {
        match self.get_mut(&key) {
            Some(slot) => *slot = value,
            None => self.push(key, value),
        }
    }

    fn push(&mut self, key: K, value: V) {
        self.list.push((key, value));
        if self.list.len() > Self::FEW {
            let places = self.places.get_or_insert_default();
            let new = self.list.iter().enumerate().skip(places.len());
            places.extend(new.map(|(place, (key, _))| (*key, place)));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.list.iter().map(|(key, value)| (*key, value))
    }

    /// Takes all out.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, V)> {
        self.places = None;
        self.list.drain(..)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut V)> {
        self.list.iter_mut().map(|(key, value)| (*key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_found_and_stay_in_order() {
        for count in [1, 16, 17, 100] {
            let mut listed = Listed::default();
            (0..count).for_each(|n| listed.put(n * 7 % 101, n));
            (0..count).step_by(3).for_each(|n| listed.put(n * 7 % 101, 1000 + n));
            *listed.get_or_try_put(0, || Err("it is there")).unwrap() += 1;
            assert_eq!(listed.get_or_try_put(600, || Err("not now")), Err("not now"));
            assert_eq!(listed.get_or_try_put(500, || Ok::<_, ()>(5)), Ok(&mut 5));
            for n in 0..count {
                let value = if n % 3 == 0 { 1000 + n } else { n } + usize::from(n == 0);
                assert_eq!(listed.get(&(n * 7 % 101)), Some(&value));
            }
            assert_eq!(listed.get(&400), None);
            let order: Vec<usize> = listed.iter().map(|(key, _)| key).collect();
            assert!(order.iter().copied().eq((0..count).map(|n| n * 7 % 101).chain([500])));
            assert!(listed.drain().map(|(key, _)| key).eq(order));
            listed.put(7, 70);
            assert_eq!((listed.get(&7), listed.get(&0), listed.iter().count()), (Some(&70), None, 1));
        }
    }
}
