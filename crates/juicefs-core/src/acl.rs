//! POSIX ACL rules as they are stored (format: metadata.md §5.6). Evaluation comes with the ACL operations.

use crate::{attr::Attr, caller::Caller};

/// A field of a rule that is not set.
pub const UNSET: u16 = 0xFFFF;

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
    fn bytes_are_those_of_the_format() {
        let rule = AclRule { owner: 7, group: 5, mask: 5, other: 5, users: vec![(1001, 4)], groups: vec![] };
        let bytes = [0, 7, 0, 5, 0, 5, 0, 5, 0, 0, 0, 1, 0, 0, 3, 0xe9, 0, 4, 0, 0, 0, 0];
        assert_eq!(rule.encode(), bytes);
        assert_eq!(AclRule::decode(&bytes), Some(rule));
        assert_eq!(AclRule::decode(&bytes[..20]), None);
    }
}
