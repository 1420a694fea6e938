//! Rules of ACLs as a client reads, keeps and sets them.

use std::sync::Arc;

use juicefs_core::{
    Caller,
    acl::{AclKind, AclRule},
    errno::Errno,
    error::MetaResult,
    ids::Ino,
};

use super::{Client, run::missing};
use crate::{
    engine::Scan,
    ops::set_acl::SetAcl,
    record::{Key, Value},
};

/// Rules read from the engine at once.
const RULES_PAGE: usize = 1024;

impl Client {
    /// The rule of a node. ENODATA when it has none. Rules are immutable, so only the node is asked for when its rule was
    /// seen before.
    pub(super) async fn read_acl(&self, ino: Ino, kind: AclKind) -> MetaResult<AclRule> {
        let attr = self.node(ino).await?.ok_or(Errno::ENOENT)?;
        let id = match kind {
            AclKind::Access => attr.access_acl,
            AclKind::Default => attr.default_acl,
        };
        if id == 0 {
            return Err(Errno::ENODATA.into());
        }
        Ok(self.rule(id).await?.ok_or_else(|| missing("the ACL rule of a node", ino))?.as_ref().clone())
    }

    pub(super) async fn change_acl(
        &self,
        cx: &Caller,
        ino: Ino,
        kind: AclKind,
        rule: AclRule,
        kill_sgid: bool,
    ) -> MetaResult<()> {
        self.writable()?;
        if !self.setting().enable_acl {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let rules = Arc::clone(&self.rules);
        let attr = self.run(SetAcl { scope: self.scope(cx), ino, kind, rule, kill_sgid, rules }).await?;
        self.rule(attr.access_acl).await?;
        self.rule(attr.default_acl).await?;
        Ok(())
    }

    /// Reads all ACL rules of a volume that has them, so that equal rules are stored once.
    pub(super) async fn load_rules(&self) -> MetaResult<()> {
        if !self.setting().enable_acl {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = self.engine.scan(Scan::Acls, after, RULES_PAGE).await?;
            for (key, value) in &page {
                if let (Key::Acl(id), Value::Acl(rule)) = (key, value) {
                    self.rules.learn(*id, rule);
                }
            }
            if page.len() < RULES_PAGE {
                return Ok(());
            }
            after = page.last().map(|(key, _)| key.clone());
        }
    }

    /// The rule of an id, from memory if it was seen before; `None` when it is not stored, and for 0.
    pub(super) async fn rule(&self, id: u32) -> MetaResult<Option<Arc<AclRule>>> {
        if id == 0 {
            return Ok(None);
        }
        if let Some(known) = self.rules.get(id) {
            return Ok(Some(known));
        }
        let read = self.transactor.fetch(&[Key::Acl(id)]).await?;
        if let Some(rule) = read.acl(id) {
            self.rules.learn(id, rule);
        }
        Ok(self.rules.get(id))
    }
}
