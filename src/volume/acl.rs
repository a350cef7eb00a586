//! POSIX access control lists, as Linux passes them in `system.posix_acl_access` and
//! `system.posix_acl_default`. The kernel checks them; kept here is what it leaves to a filesystem:
//! a list that says no more than the mode becomes the mode, chmod changes the list, and new files
//! inherit the directory's default (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
//!
//! ```text
//! version u32 = 2 │ then each entry: tag u16 │ permissions u16 │ id u32      little-endian
//! ```

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The attribute that holds the list that access is checked against.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory that holds the list for what is made in it.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ace {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list that Linux takes (posix_acl_valid): ordered by tag, with owner, group and other, and a mask where one is needed.
/// Of one tag, in any order and also twice: the first entry for an id counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Ace>);

impl Acl {
    /// From the attribute's value.
    pub fn parse(value: &[u8]) -> Result<Acl> {
        let bad = || Error::Invalid("malformed access control list".into());
        let (version, rest) = value.split_at_checked(4).ok_or_else(bad)?;
        if version != VERSION.to_le_bytes() || rest.len() % 8 != 0 {
            return Err(bad());
        }
        let mut aces = Vec::with_capacity(rest.len() / 8);
        for entry in rest.chunks_exact(8) {
            let &[t0, t1, p0, p1, i0, i1, i2, i3] = entry else { return Err(bad()) };
            aces.push(Ace {
                tag: u16::from_le_bytes([t0, t1]),
                perm: u16::from_le_bytes([p0, p1]),
                id: u32::from_le_bytes([i0, i1, i2, i3]),
            });
        }
        let count = |tag| aces.iter().filter(|ace| ace.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        let valid = aces.iter().all(|ace| ace.perm <= 7)
            && aces.windows(2).all(|pair| matches!(pair, [a, b] if a.tag <= b.tag))
            && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
            && count(MASK) <= 1
            && (!named || count(MASK) == 1)
            && [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].into_iter().map(count).sum::<usize>()
                == aces.len();
        if valid { Ok(Acl(aces)) } else { Err(bad()) }
    }

    /// As the attribute's value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for ace in &self.0 {
            bytes.extend(ace.tag.to_le_bytes());
            bytes.extend(ace.perm.to_le_bytes());
            bytes.extend(ace.id.to_le_bytes());
        }
        bytes
    }

    fn perm(&self, tag: u16) -> Option<u32> {
        self.0.iter().find(|ace| ace.tag == tag).map(|ace| u32::from(ace.perm))
    }

    /// The nine permission bits that stand for the list: the group's are the mask.
    pub fn mode(&self) -> u32 {
        let group = self.perm(MASK).or(self.perm(GROUP_OBJ)).unwrap_or(0);
        self.perm(USER_OBJ).unwrap_or(0) << 6 | group << 3 | self.perm(OTHER).unwrap_or(0)
    }

    /// Whether the permission bits say it all.
    pub fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// Changes what the permission bits stand for.
    pub fn set_mode(&mut self, mode: u32) {
        let group_tag = if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ };
        for ace in &mut self.0 {
            let shift = match ace.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group_tag => 3,
                _ => continue,
            };
            ace.perm = (mode >> shift & 7) as u16;
        }
    }
}

/// What a new file gets from its directory's default list.
pub(super) struct Inherited {
    pub mode: u32,
    pub attributes: Vec<(Box<[u8]>, Vec<u8>)>,
}

/// What a file made with `mode` inherits, when the directory has a default list.
pub(super) fn inherit(dir: &BTreeMap<Box<[u8]>, Vec<u8>>, mode: u32) -> Result<Option<Inherited>> {
    let Some(default) = dir.get(DEFAULT) else { return Ok(None) };
    let mut acl = Acl::parse(default)?;
    acl.set_mode(acl.mode() & mode);
    let mode = mode & !0o777 | acl.mode();
    let mut attributes = Vec::new();
    if !acl.is_mode() {
        attributes.push((ACCESS.into(), acl.to_bytes()));
    }
    if mode & libc::S_IFMT == libc::S_IFDIR {
        attributes.push((DEFAULT.into(), default.clone()));
    }
    Ok(Some(Inherited { mode, attributes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(aces: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(aces.iter().map(|&(tag, perm, id)| Ace { tag, perm, id }).collect()).to_bytes()
    }

    #[test]
    fn a_list_without_owner_group_other_or_a_needed_mask_is_refused() {
        let none = u32::MAX;
        assert!(Acl::parse(&bytes(&[(USER_OBJ, 7, none), (GROUP_OBJ, 5, none), (OTHER, 0, none)])).is_ok());
        assert!(Acl::parse(&bytes(&[(USER_OBJ, 7, none), (GROUP_OBJ, 5, none)])).is_err());
        let named = [(USER_OBJ, 7, none), (USER, 6, 10), (GROUP_OBJ, 5, none), (OTHER, 0, none)];
        assert!(Acl::parse(&bytes(&named)).is_err());
        assert!(Acl::parse(b"").is_err() && Acl::parse(&[9; 12]).is_err());
    }

    #[test]
    fn chmod_changes_the_mask_and_leaves_named_entries() {
        let none = u32::MAX;
        let list =
            [(USER_OBJ, 7, none), (USER, 6, 10), (GROUP_OBJ, 5, none), (MASK, 7, none), (OTHER, 0, none)];
        let mut acl = Acl::parse(&bytes(&list)).unwrap();
        assert_eq!(acl.mode(), 0o770);
        acl.set_mode(0o640);
        assert_eq!(acl.mode(), 0o640);
        assert_eq!(acl.perm(GROUP_OBJ), Some(5));
        assert_eq!(acl.perm(USER), Some(6));
    }

    #[test]
    fn a_new_file_gets_the_default_list_limited_by_its_mode() {
        let none = u32::MAX;
        let list =
            [(USER_OBJ, 7, none), (USER, 6, 10), (GROUP_OBJ, 5, none), (MASK, 7, none), (OTHER, 5, none)];
        let dir = BTreeMap::from([(Box::from(DEFAULT), bytes(&list))]);
        let file = inherit(&dir, libc::S_IFREG | 0o640).unwrap().unwrap();
        assert_eq!(file.mode, libc::S_IFREG | 0o640);
        assert_eq!(file.attributes.len(), 1);
        let sub = inherit(&dir, libc::S_IFDIR | 0o777).unwrap().unwrap();
        assert_eq!(sub.attributes.len(), 2);
        assert!(inherit(&BTreeMap::new(), 0o644).unwrap().is_none());
    }
}
