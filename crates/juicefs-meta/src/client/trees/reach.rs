//! Whether a caller can walk to a node.

use std::collections::HashSet;

use juicefs_core::{Caller, errno::Errno, error::MetaResult, ids::Ino};

use super::is;
use crate::{
    client::Client,
    ops::{access::X, setattr::is_trusted},
};

/// Directories with a name of the node that are looked at.
const MAX_PARENTS: usize = 1024;

impl Client {
    /// EACCES unless one of the node's names lies where the caller may search every directory from the root of the mount
    /// on. ENOENT.
    pub(in crate::client) async fn may_reach(&self, cx: &Caller, ino: Ino) -> MetaResult<()> {
        if ino == self.root || self.root == Ino::ROOT && is_trusted(cx) {
            return Ok(());
        }
        let mut barred = HashSet::new();
        for dir in self.parents_of(ino).await?.into_keys().take(MAX_PARENTS) {
            if self.leads_down_to(cx, dir, &mut barred).await? {
                return Ok(());
            }
        }
        Err(Errno::EACCES.into())
    }

    /// Whether the way from the root of the mount to this directory, itself included, is open. What was looked at without
    /// success is in `barred`, so that the walk ends also where a damaged volume has a circle.
    async fn leads_down_to(&self, cx: &Caller, mut dir: Ino, barred: &mut HashSet<Ino>) -> MetaResult<bool> {
        let is_top = |dir: Ino| dir == self.root || dir == Ino::TRASH_ROOT && self.root == Ino::ROOT;
        while barred.insert(dir) {
            if !is_trusted(cx) {
                match self.check_access(cx, dir, X).await {
                    Err(error) if is(&error, Errno::EACCES) || is(&error, Errno::ENOENT) => return Ok(false),
                    checked => checked?,
                }
            }
            if is_top(dir) {
                return Ok(true);
            }
            // Above the root of this mount, or nowhere.
            if dir == Ino::ROOT {
                return Ok(false);
            }
            let Some(attr) = self.node(dir).await? else { return Ok(false) };
            dir = attr.parent;
        }
        Ok(false)
    }
}
