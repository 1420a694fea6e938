//! The tables of a volume, what creates them, and what an older volume has of them.

/// Columns of the node table, in the order in which rows are written.
pub(crate) const NODE_COLUMNS: [&str; 19] = [
    "inode",
    "type",
    "flags",
    "mode",
    "uid",
    "gid",
    "atime",
    "mtime",
    "ctime",
    "atimensec",
    "mtimensec",
    "ctimensec",
    "nlink",
    "length",
    "rdev",
    "parent",
    "access_acl_id",
    "default_acl_id",
    "tier_id",
];

/// Node columns that versions after 1.0 added, with what adds them.
const ADDED_NODE_COLUMNS: [(&str, &str); 6] = [
    ("atimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("mtimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("ctimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("access_acl_id", "INTEGER NULL"),
    ("default_acl_id", "INTEGER NULL"),
    ("tier_id", "INTEGER NULL"),
];

macro_rules! tables {
    ($($variant:ident $name:literal $columns:literal [$($index:literal),*];)*) => {
        /// A table of a volume.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) enum Table {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Table {
            /// Every table, in the order of creation.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name without prefix.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            fn columns(self) -> &'static str {
                match self { $(Self::$variant => $columns),* }
            }

            /// Columns of the indexes; a leading `*` marks a unique one, the word before `:` names it.
            fn indexes(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($index),*]),* }
            }
        }
    };
}

tables! {
    Setting "setting" "`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL" [];
    Counter "counter" "`name` TEXT PRIMARY KEY NOT NULL, `value` INTEGER NOT NULL" [];
    Edge "edge"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL, `name` BLOB NOT NULL, `inode` INTEGER NOT NULL, `type` INTEGER NOT NULL"
        ["*edge:`parent`,`name`", "inode:`inode`"];
    Node "node"
        "`inode` INTEGER PRIMARY KEY NOT NULL, `type` INTEGER NOT NULL, `flags` INTEGER NOT NULL, `mode` INTEGER NOT NULL, `uid` INTEGER NOT NULL, `gid` INTEGER NOT NULL, `atime` INTEGER NOT NULL, `mtime` INTEGER NOT NULL, `ctime` INTEGER NOT NULL, `atimensec` INTEGER DEFAULT 0 NOT NULL, `mtimensec` INTEGER DEFAULT 0 NOT NULL, `ctimensec` INTEGER DEFAULT 0 NOT NULL, `nlink` INTEGER NOT NULL, `length` INTEGER NOT NULL, `rdev` INTEGER NULL, `parent` INTEGER NULL, `access_acl_id` INTEGER NULL, `default_acl_id` INTEGER NULL, `tier_id` INTEGER NULL"
        [];
    Symlink "symlink" "`inode` INTEGER PRIMARY KEY NOT NULL, `target` BLOB NOT NULL" [];
    Xattr "xattr"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `name` TEXT NOT NULL, `value` BLOB NOT NULL"
        ["*name:`inode`,`name`"];
    Chunk "chunk"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `indx` INTEGER NOT NULL, `slices` BLOB NOT NULL"
        ["*chunk:`inode`,`indx`"];
    ChunkRef "chunk_ref" "`chunkid` INTEGER PRIMARY KEY NOT NULL, `size` INTEGER NOT NULL, `refs` INTEGER NOT NULL"
        ["refs:`refs`"];
    DelSlices "delslices"
        "`chunkid` INTEGER PRIMARY KEY NOT NULL, `deleted` INTEGER NOT NULL, `slices` BLOB NOT NULL" [];
    Session "session2" "`sid` INTEGER PRIMARY KEY NOT NULL, `expire` INTEGER NOT NULL, `info` BLOB NULL" [];
    LegacySession "session" "`sid` INTEGER PRIMARY KEY NOT NULL, `heartbeat` INTEGER NOT NULL, `info` BLOB NULL" [];
    Sustained "sustained"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `sid` INTEGER NOT NULL, `inode` INTEGER NOT NULL"
        ["*sustained:`sid`,`inode`"];
    DelFile "delfile" "`inode` INTEGER PRIMARY KEY NOT NULL, `length` INTEGER NOT NULL, `expire` INTEGER NOT NULL" [];
    Flock "flock"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, `owner` INTEGER NOT NULL, `ltype` INTEGER NOT NULL"
        ["*flock:`inode`,`sid`,`owner`"];
    Plock "plock"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, `owner` INTEGER NOT NULL, `records` BLOB NOT NULL"
        ["*plock:`inode`,`sid`,`owner`"];
    DirQuota "dir_quota"
        "`inode` INTEGER PRIMARY KEY NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL"
        [];
    UserGroupQuota "user_group_quota"
        "`qtype` INTEGER NOT NULL, `qkey` INTEGER NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL, PRIMARY KEY ( `qtype`,`qkey` )"
        [];
    DirStats "dir_stats"
        "`inode` INTEGER PRIMARY KEY NOT NULL, `data_length` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL"
        [];
    DetachedNode "detached_node" "`inode` INTEGER PRIMARY KEY NOT NULL, `added` INTEGER NOT NULL" [];
    Acl "acl"
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `owner` INTEGER NULL, `group` INTEGER NULL, `mask` INTEGER NULL, `other` INTEGER NULL, `named_users` BLOB NULL, `named_groups` BLOB NULL"
        [];
    DelegationToken "delegation_token" "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `token` BLOB NULL" [];
    ChangeLog "change_log" "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `entry` TEXT NOT NULL" [];
}

impl Table {
    /// Only volumes made before 1.0 have it: read and emptied when it is there, never made.
    fn is_legacy(self) -> bool {
        self == Self::LegacySession
    }

    /// Names of its columns.
    fn column_names(self) -> impl Iterator<Item = &'static str> {
        self.columns().split(", ").filter_map(|column| column.strip_prefix('`')?.split('`').next())
    }
}

/// What a database has of a volume's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Schema {
    prefix: String,
    tables: Vec<Table>,
    indexes: Vec<String>,
    node_columns: Vec<String>,
}

impl Schema {
    /// A database without any table. `table_prefix` is the option of the URL, empty for none.
    pub(crate) fn empty(table_prefix: &str) -> Self {
        let prefix = if table_prefix.is_empty() { "jfs_".to_owned() } else { format!("jfs_{table_prefix}_") };
        Self { prefix, tables: Vec::new(), indexes: Vec::new(), node_columns: Vec::new() }
    }

    /// Notes a table or an index that the database has; names that are not a volume's are passed over.
    pub(crate) fn note(&mut self, name: &str) {
        match Table::ALL.iter().find(|table| self.table_name(**table) == name) {
            Some(table) => self.tables.push(*table),
            None => self.indexes.push(name.to_owned()),
        }
    }

    /// Notes a column of the node table.
    pub(crate) fn note_node_column(&mut self, name: String) {
        self.node_columns.push(name);
    }

    /// The full name of a table.
    pub(crate) fn table_name(&self, table: Table) -> String {
        format!("{}{}", self.prefix, table.name())
    }

    /// Whether the database has the table.
    pub(crate) fn has(&self, table: Table) -> bool {
        self.tables.contains(&table)
    }

    /// The tables that the database has.
    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Whether the node table has the column.
    pub(crate) fn has_node_column(&self, name: &str) -> bool {
        self.node_columns.iter().any(|column| column == name)
    }

    /// Whether nothing is missing for writing.
    pub(crate) fn is_complete(&self) -> bool {
        self.upgrade().is_empty()
    }

    /// What a `FROM` clause says for the table: its name, or an empty stand-in when the volume is too old to have it.
    pub(crate) fn source(&self, table: Table) -> String {
        if self.has(table) {
            return format!("`{}`", self.table_name(table));
        }
        let columns: Vec<_> = table.column_names().map(|name| format!("0 AS `{name}`")).collect();
        format!("(SELECT {} WHERE 0)", columns.join(", "))
    }

    /// The statements that make what is missing, in order; empty when nothing is.
    pub(crate) fn upgrade(&self) -> Vec<String> {
        let mut out = Vec::new();
        for table in Table::ALL.iter().filter(|table| !table.is_legacy()) {
            let name = self.table_name(*table);
            if !self.has(*table) {
                out.push(format!("CREATE TABLE IF NOT EXISTS `{name}` ({})", table.columns()));
            } else if *table == Table::Node {
                let missing = ADDED_NODE_COLUMNS.iter().filter(|(column, _)| !self.has_node_column(column));
                out.extend(missing.map(|(column, kind)| format!("ALTER TABLE `{name}` ADD `{column}` {kind}")));
            }
            for index in table.indexes() {
                let (unique, index) = match index.strip_prefix('*') {
                    Some(rest) => ("UNIQUE ", rest),
                    None => ("", *index),
                };
                let Some((label, columns)) = index.split_once(':') else { continue };
                let kind = if unique.is_empty() { "IDX" } else { "UQE" };
                let index = format!("{kind}_{name}_{label}");
                if !self.indexes.contains(&index) {
                    out.push(format!("CREATE {unique}INDEX IF NOT EXISTS `{index}` ON `{name}` ({columns})"));
                }
            }
        }
        out
    }

    /// The statements that remove all tables.
    pub(crate) fn removal(&self) -> Vec<String> {
        self.tables.iter().map(|table| format!("DROP TABLE IF EXISTS `{}`", self.table_name(*table))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_gets_every_table_and_index() {
        let schema = Schema::empty("");
        let made = schema.upgrade();
        assert_eq!(made.iter().filter(|s| s.starts_with("CREATE TABLE")).count(), Table::ALL.len() - 1);
        assert_eq!(made.iter().filter(|s| s.contains("INDEX")).count(), 8);
        assert_eq!(
            made[0],
            "CREATE TABLE IF NOT EXISTS `jfs_setting` (`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL)"
        );
        assert!(
            made.iter()
                .any(|s| s == "CREATE UNIQUE INDEX IF NOT EXISTS `UQE_jfs_edge_edge` ON `jfs_edge` (`parent`,`name`)")
        );
    }

    #[test]
    fn a_prefix_goes_into_every_name() {
        let made = Schema::empty("two").upgrade();
        assert!(made.iter().all(|s| s.contains("`jfs_two_")), "{made:?}");
        assert!(made.iter().any(|s| s.contains("`IDX_jfs_two_edge_inode`")));
    }

    #[test]
    fn what_is_missing_reads_as_nothing() {
        let schema = Schema::empty("");
        assert_eq!(schema.source(Table::Symlink), "(SELECT 0 AS `inode`, 0 AS `target` WHERE 0)");
        assert_eq!(
            schema.source(Table::UserGroupQuota),
            "(SELECT 0 AS `qtype`, 0 AS `qkey`, 0 AS `max_space`, 0 AS `max_inodes`, 0 AS `used_space`, \
             0 AS `used_inodes` WHERE 0)"
        );
    }
}
