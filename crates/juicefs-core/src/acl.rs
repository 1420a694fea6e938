//! POSIX ACL rules, in the form in which they are stored (format: metadata.md §5.6) and in that in which the kernel
//! passes them in extended attributes (format: data.md §5.4; `linux/posix_acl_xattr.h`).

use crate::{attr::Attr, caller::Caller};

/// A field of a rule that is not set.
pub const UNSET: u16 = 0xFFFF;

/// The two kinds of rules that a node can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclKind {
    /// The rule that governs access to the node.
    Access,
    /// The rule with which new entries of the directory begin.
    Default,
}

impl AclKind {
    /// The extended attribute that shows the rule.
    #[must_use]
    pub const fn xattr_name(self) -> &'static [u8] {
        match self {
            Self::Access => b"system.posix_acl_access",
            Self::Default => b"system.posix_acl_default",
        }
    }

    /// The rule that an extended attribute of this name shows, `None` for any other attribute.
    #[must_use]
    pub fn of_xattr(name: &[u8]) -> Option<Self> {
        [Self::Access, Self::Default].into_iter().find(|kind| kind.xattr_name() == name)
    }
}

/// The version of the kernel's form, at its head.
const XATTR_VERSION: u32 = 2;
/// Bytes of an entry of the kernel's form: tag u16, permission bits u16, id u32.
const XATTR_ENTRY_BYTES: usize = 8;
/// The id in entries that name nobody.
const NO_ID: u32 = u32::MAX;

/// Tags of entries in the kernel's form.
mod tag {
    pub(super) const OWNER: u16 = 0x01;
    pub(super) const USER: u16 = 0x02;
    pub(super) const OWNING_GROUP: u16 = 0x04;
    pub(super) const GROUP: u16 = 0x08;
    pub(super) const MASK: u16 = 0x10;
    pub(super) const OTHER: u16 = 0x20;
}

/// One access or default rule. Rules are immutable and shared by id.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AclRule {
    /// Permission bits of the owner.
    pub owner: u16,
    /// Permission bits of the owning group.
    pub group: u16,
    /// Upper bound for the group and named entries.
    pub mask: u16,
    /// Permission bits of everybody else.
    pub other: u16,
    /// Named users with their bits, in the order received.
    pub users: Vec<(u32, u16)>,
    /// Named groups with their bits, in the order received.
    pub groups: Vec<(u32, u16)>,
}

impl AclRule {
    /// Whether `caller` gets all bits of `mask` on a node of `attr` governed by this access rule (metadata.md §6.0).
    #[must_use]
    pub fn permits(&self, caller: &Caller, attr: &Attr, mask: u8) -> bool {
        let mask = u16::from(mask);
        let grants = |perm: u16| perm & mask == mask;
        if caller.uid == attr.uid {
            return grants(self.owner);
        }
        if let Some((_, perm)) = self.users.iter().find(|(uid, _)| *uid == caller.uid) {
            return grants(perm & self.mask);
        }
        let own_group = caller.in_group(attr.gid).then_some(self.group);
        let named = self.groups.iter().filter(|(gid, _)| caller.in_group(*gid)).map(|(_, perm)| *perm);
        let mut matched = false;
        for perm in own_group.into_iter().chain(named) {
            if grants(perm & self.mask) {
                return true;
            }
            matched = true;
        }
        !matched && grants(self.other)
    }

    /// A rule that says nothing. To set it removes the rule of a node.
    #[must_use]
    pub const fn empty() -> Self {
        Self { owner: UNSET, group: UNSET, mask: UNSET, other: UNSET, users: Vec::new(), groups: Vec::new() }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::empty()
    }

    /// Whether it says no more than permission bits can.
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.mask == UNSET
    }

    /// The permission bits (`0o777`) that a mode shows for it. If there is a mask it stands in the place of the group.
    #[must_use]
    pub fn permission_bits(&self) -> u16 {
        let group = if self.is_minimal() { self.group } else { self.mask };
        (self.owner & 7) << 6 | (group & 7) << 3 | self.other & 7
    }

    /// The kernel's form in an extended attribute, in native byte order: owner, users, group, groups, mask, other.
    #[must_use]
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut out = XATTR_VERSION.to_ne_bytes().to_vec();
        let mut entry = |tag: u16, perm: u16, id: u32| {
            out.extend_from_slice(&tag.to_ne_bytes());
            out.extend_from_slice(&perm.to_ne_bytes());
            out.extend_from_slice(&id.to_ne_bytes());
        };
        let set = |perm: u16| (perm != UNSET).then_some(perm);
        set(self.owner).into_iter().for_each(|perm| entry(tag::OWNER, perm, NO_ID));
        self.users.iter().for_each(|(uid, perm)| entry(tag::USER, *perm, *uid));
        set(self.group).into_iter().for_each(|perm| entry(tag::OWNING_GROUP, perm, NO_ID));
        self.groups.iter().for_each(|(gid, perm)| entry(tag::GROUP, *perm, *gid));
        set(self.mask).into_iter().for_each(|perm| entry(tag::MASK, perm, NO_ID));
        set(self.other).into_iter().for_each(|perm| entry(tag::OTHER, perm, NO_ID));
        out
    }

    /// Reads the kernel's form; no bytes at all and a head alone are the empty rule. `None` (EINVAL) for another version,
    /// an unknown tag, bits above 7, a second entry of a class, or names without a mask.
    #[must_use]
    pub fn from_xattr(bytes: &[u8]) -> Option<Self> {
        let mut rule = Self::empty();
        if bytes.is_empty() {
            return Some(rule);
        }
        let (version, entries) = bytes.split_first_chunk()?;
        if u32::from_ne_bytes(*version) != XATTR_VERSION {
            return None;
        }
        let (entries, rest) = entries.as_chunks::<XATTR_ENTRY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        for &[t0, t1, p0, p1, i0, i1, i2, i3] in entries {
            let perm = u16::from_ne_bytes([p0, p1]);
            let id = u32::from_ne_bytes([i0, i1, i2, i3]);
            let class = match u16::from_ne_bytes([t0, t1]) {
                tag::OWNER => &mut rule.owner,
                tag::OWNING_GROUP => &mut rule.group,
                tag::MASK => &mut rule.mask,
                tag::OTHER => &mut rule.other,
                named @ (tag::USER | tag::GROUP) => {
                    let list = if named == tag::USER { &mut rule.users } else { &mut rule.groups };
                    list.push((perm <= 7).then_some((id, perm))?);
                    continue;
                }
                _ => return None,
            };
            if perm > 7 || *class != UNSET {
                return None;
            }
            *class = perm;
        }
        let named = !(rule.users.is_empty() && rule.groups.is_empty());
        (!named || rule.mask != UNSET).then_some(rule)
    }

    /// The bytes of the format, big endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 6 * (self.users.len() + self.groups.len()));
        for field in [self.owner, self.group, self.mask, self.other] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        for list in [&self.users, &self.groups] {
            out.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&encode_named(list));
        }
        out
    }

    /// Decodes the bytes of the format; `None` when they do not fit together.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut fields = [0; 4];
        for field in &mut fields {
            *field = u16::from_be_bytes(*bytes.split_off(..2)?.first_chunk()?);
        }
        let mut list = || {
            let count = u32::from_be_bytes(*bytes.split_off(..4)?.first_chunk()?) as usize;
            decode_named(bytes.split_off(..count.checked_mul(6)?)?)
        };
        let (users, groups) = (list()?, list()?);
        let [owner, group, mask, other] = fields;
        bytes.is_empty().then_some(Self { owner, group, mask, other, users, groups })
    }
}

/// Named entries as 6-byte (id u32, perm u16) big-endian items, the form of the SQL columns.
#[must_use]
pub fn encode_named(list: &[(u32, u16)]) -> Vec<u8> {
    list.iter().flat_map(|(id, perm)| id.to_be_bytes().into_iter().chain(perm.to_be_bytes())).collect()
}

/// The inverse of [`encode_named`]; `None` for a length that is no multiple of 6.
#[must_use]
pub fn decode_named(bytes: &[u8]) -> Option<Vec<(u32, u16)>> {
    let (items, rest) = bytes.as_chunks::<6>();
    rest.is_empty().then(|| {
        items.iter().map(|b| (u32::from_be_bytes([b[0], b[1], b[2], b[3]]), u16::from_be_bytes([b[4], b[5]]))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_goes_there_and_back() {
        let rule = AclRule { owner: 7, group: 5, mask: 4, other: 0, users: vec![(9, 6), (3, 1)], groups: vec![(8, 2)] };
        let bytes = rule.to_xattr();
        assert_eq!(bytes.len(), 4 + 7 * 8);
        assert_eq!(AclRule::from_xattr(&bytes).as_ref(), Some(&rule));
        if cfg!(target_endian = "little") {
            assert_eq!(bytes[..20], [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 9, 0, 0, 0]);
        }
        let minimal = AclRule { mask: UNSET, users: vec![], groups: vec![], ..rule };
        assert_eq!(AclRule::from_xattr(&minimal.to_xattr()).as_ref(), Some(&minimal));
        assert!(minimal.is_minimal() && !minimal.is_empty());
        for nothing in [&[][..], &XATTR_VERSION.to_ne_bytes()] {
            assert!(AclRule::from_xattr(nothing).is_some_and(|rule| rule.is_empty()));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let entry =
            |tag: u16, perm: u16, id: u32| [&tag.to_ne_bytes()[..], &perm.to_ne_bytes(), &id.to_ne_bytes()].concat();
        let form = |entries: &[Vec<u8>]| [&2_u32.to_ne_bytes()[..], &entries.concat()].concat();
        let refused = [
            vec![2, 0, 0],
            [&3_u32.to_ne_bytes()[..], &entry(1, 7, NO_ID)].concat(),
            form(&[entry(1, 7, NO_ID)])[..11].to_vec(),
            form(&[entry(1, 7, NO_ID), entry(1, 6, NO_ID)]),
            form(&[entry(1, 8, NO_ID)]),
            form(&[entry(0x40, 7, NO_ID)]),
            form(&[entry(2, 7, 5)]),
        ];
        for bytes in refused {
            assert_eq!(AclRule::from_xattr(&bytes), None, "{bytes:?}");
        }
        assert!(AclRule::from_xattr(&form(&[entry(2, 7, 5), entry(0x10, 7, NO_ID)])).is_some());
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let rule = AclRule { owner: 7, group: 5, mask: 5, other: 5, users: vec![(1001, 4)], groups: vec![] };
        let bytes = [0, 7, 0, 5, 0, 5, 0, 5, 0, 0, 0, 1, 0, 0, 3, 0xe9, 0, 4, 0, 0, 0, 0];
        assert_eq!(rule.encode(), bytes);
        assert_eq!(AclRule::decode(&bytes), Some(rule));
        assert_eq!(AclRule::decode(&bytes[..20]), None);
    }
}
