//! The text of every statement, fitted once to what the database has.

use super::schema::{NODE_COLUMNS, Schema, Table};

macro_rules! statements {
    ($($name:ident = $text:literal;)*) => {
        /// A statement over the tables of a volume; its parameters are numbered in the text.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Statement {
            $(#[doc = $text] $name,)*
        }

        const TEMPLATES: &[&str] = &[$($text),*];
    };
}

// `{table}` is a table to read, which may be missing; `{=table}` its plain name; `{n.*}` the columns of a node.
statements! {
    GetSetting = "SELECT `value` FROM {setting} WHERE `name`='format'";
    GetNode = "SELECT {n.*} FROM {node} n WHERE n.`inode`=?1";
    GetEdge = "SELECT `inode`,`type` FROM {edge} WHERE `parent`=?1 AND `name`=?2";
    HasEntries = "SELECT EXISTS(SELECT 1 FROM {edge} WHERE `parent`=?1)";
    GetSymlink = "SELECT `target` FROM {symlink} WHERE `inode`=?1";
    GetXattr = "SELECT `value` FROM {xattr} WHERE `inode`=?1 AND `name`=?2";
    ListXattrs = "SELECT `name`,`value` FROM {xattr} WHERE `inode`=?1 ORDER BY `name`";
    GetChunk = "SELECT `slices` FROM {chunk} WHERE `inode`=?1 AND `indx`=?2";
    FirstChunkIndexes = "SELECT `indx` FROM {chunk} WHERE `inode`=?1 AND `indx`>=?2 AND `indx`<?3 ORDER BY `indx` LIMIT ?4";
    LastChunkIndexes = "SELECT `indx` FROM {chunk} WHERE `inode`=?1 AND `indx`>=?2 AND `indx`<?3 \
        ORDER BY `indx` DESC LIMIT ?4";
    GetSliceRef = "SELECT `refs` FROM {chunk_ref} WHERE `chunkid`=?1 AND `size`=?2";
    ListParents = "SELECT `parent`,count(*) FROM {edge} WHERE `inode`=?1 GROUP BY `parent`";
    GetDirStat = "SELECT `data_length`,`used_space`,`used_inodes` FROM {dir_stats} WHERE `inode`=?1";
    GetAcl = "SELECT `owner`,`group`,`mask`,`other`,`named_users`,`named_groups` FROM {acl} WHERE `id`=?1";
    GetSession = "SELECT `expire`,`info` FROM {session2} WHERE `sid`=?1";
    HasSession = "SELECT 1 FROM {session2} WHERE `sid`=?1";
    HasSustained = "SELECT EXISTS(SELECT 1 FROM {sustained} WHERE `sid`=?1)";
    GetSustained = "SELECT 1 FROM {sustained} WHERE `sid`=?1 AND `inode`=?2";
    GetDirQuota = "SELECT `max_space`,`max_inodes`,`used_space`,`used_inodes` FROM {dir_quota} WHERE `inode`=?1";
    GetUserGroupQuota = "SELECT `max_space`,`max_inodes`,`used_space`,`used_inodes` FROM {user_group_quota} \
        WHERE `qtype`=?1 AND `qkey`=?2";
    GetDelFile = "SELECT `length`,`expire` FROM {delfile} WHERE `inode`=?1";
    GetDelaySlices = "SELECT `deleted`,`slices` FROM {delslices} WHERE `chunkid`=?1";
    GetDetached = "SELECT `added` FROM {detached_node} WHERE `inode`=?1";
    GetCounter = "SELECT `value` FROM {counter} WHERE `name`=?1";
    GetSequence = "SELECT max(`seq`) FROM `sqlite_sequence` WHERE `name`=?1";

    ListFlocks = "SELECT `sid`,`owner`,`ltype` FROM {flock} WHERE `inode`=?1";
    ListPlocks = "SELECT `sid`,`owner`,`records` FROM {plock} WHERE `inode`=?1";

    Lookup = "SELECT e.`inode`,e.`type`,{n.*} FROM {edge} e LEFT JOIN {node} n ON n.`inode`=e.`inode` \
        WHERE e.`parent`=?1 AND e.`name`=?2";
    ReadDir = "SELECT `name`,`inode`,`type` FROM {edge} WHERE `parent`=?1 AND `name`>?2 ORDER BY `name` LIMIT ?3";
    ReadDirAttrs = "SELECT e.`name`,e.`inode`,e.`type`,{n.*} FROM {edge} e CROSS JOIN {node} n \
        WHERE e.`parent`=?1 AND e.`name`>?2 AND n.`inode`=e.`inode` ORDER BY e.`name` LIMIT ?3";

    ScanSessions = "SELECT `sid`,`expire`,`info` FROM {session2} WHERE `sid`>?1 UNION ALL \
        SELECT `sid`,`heartbeat`+300,`info` FROM {session} WHERE `sid`>?1 AND `sid` NOT IN (SELECT `sid` FROM {session2}) \
        ORDER BY 1 LIMIT ?2";
    ScanExpiring = "SELECT `sid`,`expire`,`info` FROM {session2} WHERE `expire`<?1 AND `sid`>?2 UNION ALL \
        SELECT `sid`,`heartbeat`+300,`info` FROM {session} WHERE `heartbeat`+300<?1 AND `sid`>?2 \
        AND `sid` NOT IN (SELECT `sid` FROM {session2}) ORDER BY 1 LIMIT ?3";
    ScanSustained = "SELECT `inode` FROM {sustained} WHERE `sid`=?1 AND `inode`>?2 ORDER BY `inode` LIMIT ?3";
    ScanDelFiles = "SELECT `inode`,`length`,`expire` FROM {delfile} WHERE `expire`<?1 AND `inode`>?2 \
        ORDER BY `inode` LIMIT ?3";
    ScanDeadSlices = "SELECT `chunkid`,`size`,`refs` FROM {chunk_ref} WHERE `refs`<=0 AND +`chunkid`>?1 \
        ORDER BY +`chunkid` LIMIT ?2";
    ScanDelaySlices = "SELECT `chunkid`,`deleted`,`slices` FROM {delslices} WHERE `deleted`<?1 AND `chunkid`>?2 \
        ORDER BY `chunkid` LIMIT ?3";
    ScanChunks = "SELECT `indx`,`slices` FROM {chunk} WHERE `inode`=?1 AND `indx`>?2 AND `indx`<?3 ORDER BY `indx` LIMIT ?4";
    ScanXattrs = "SELECT `name`,`value` FROM {xattr} WHERE `inode`=?1 AND `name`>?2 ORDER BY `name` LIMIT ?3";
    ScanAcls = "SELECT `id`,`owner`,`group`,`mask`,`other`,`named_users`,`named_groups` FROM {acl} WHERE `id`>?1 \
        ORDER BY `id` LIMIT ?2";
    ScanDetached = "SELECT `inode`,`added` FROM {detached_node} WHERE `added`<?1 AND `inode`>?2 ORDER BY `inode` LIMIT ?3";

    ScanQuotas = "SELECT `qtype` AS `kind`,`qkey` AS `number`,`max_space`,`max_inodes`,`used_space`,`used_inodes` \
        FROM {user_group_quota} WHERE `qtype` IN (1,2) AND (`qtype`,`qkey`)>(?1,?2) UNION ALL \
        SELECT 3,`inode`,`max_space`,`max_inodes`,`used_space`,`used_inodes` FROM {dir_quota} \
        WHERE (3,`inode`)>(?1,?2) ORDER BY 1,2 LIMIT ?3";

    InsertNode = "INSERT INTO {=node} ({columns}) VALUES ({values})";
    UpdateNode = "UPDATE {=node} SET {assignments} WHERE `inode`=?1";
    DeleteNode = "DELETE FROM {=node} WHERE `inode`=?1";
    InsertEdge = "INSERT INTO {=edge} (`parent`,`name`,`inode`,`type`) VALUES (?1,?2,?3,?4)";
    UpdateEdge = "UPDATE {=edge} SET `inode`=?3,`type`=?4 WHERE `parent`=?1 AND `name`=?2";
    DeleteEdge = "DELETE FROM {=edge} WHERE `parent`=?1 AND `name`=?2";
    PutSymlink = "INSERT INTO {=symlink} (`inode`,`target`) VALUES (?1,?2) \
        ON CONFLICT (`inode`) DO UPDATE SET `target`=excluded.`target`";
    DeleteSymlink = "DELETE FROM {=symlink} WHERE `inode`=?1";
    PutXattr = "INSERT INTO {=xattr} (`inode`,`name`,`value`) VALUES (?1,?2,?3) \
        ON CONFLICT (`inode`,`name`) DO UPDATE SET `value`=excluded.`value`";
    DeleteXattr = "DELETE FROM {=xattr} WHERE `inode`=?1 AND `name`=?2";
    DeleteXattrs = "DELETE FROM {=xattr} WHERE `inode`=?1";
    AppendSlices = "INSERT INTO {=chunk} (`inode`,`indx`,`slices`) VALUES (?1,?2,?3) ON CONFLICT (`inode`,`indx`) \
        DO UPDATE SET `slices`=CAST(`slices` || excluded.`slices` AS BLOB) RETURNING length(CAST(`slices` AS BLOB))";
    ReplaceHead = "UPDATE {=chunk} SET `slices`=CAST(?3 || substr(CAST(`slices` AS BLOB),?4) AS BLOB) \
        WHERE `inode`=?1 AND `indx`=?2 AND length(CAST(`slices` AS BLOB))>=?4-1";
    PutChunk = "INSERT INTO {=chunk} (`inode`,`indx`,`slices`) VALUES (?1,?2,?3) ON CONFLICT (`inode`,`indx`) \
        DO UPDATE SET `slices`=excluded.`slices`";
    DeleteChunk = "DELETE FROM {=chunk} WHERE `inode`=?1 AND `indx`=?2";
    InsertSliceRef = "INSERT INTO {=chunk_ref} (`chunkid`,`size`,`refs`) VALUES (?1,?2,?3)";
    AddSliceRef = "UPDATE {=chunk_ref} SET `refs`=`refs`+?3 WHERE `chunkid`=?1 AND `size`=?2";
    DeleteSliceRef = "DELETE FROM {=chunk_ref} WHERE `chunkid`=?1";
    PutDirStat = "INSERT INTO {=dir_stats} (`inode`,`data_length`,`used_space`,`used_inodes`) VALUES (?1,?2,?3,?4) \
        ON CONFLICT (`inode`) DO UPDATE SET `data_length`=excluded.`data_length`,`used_space`=excluded.`used_space`,\
        `used_inodes`=excluded.`used_inodes`";
    DeleteDirStat = "DELETE FROM {=dir_stats} WHERE `inode`=?1";
    DeleteAllDirStats = "DELETE FROM {=dir_stats}";
    PutDirQuota = "INSERT INTO {=dir_quota} (`inode`,`max_space`,`max_inodes`,`used_space`,`used_inodes`) \
        VALUES (?1,?2,?3,?4,?5) ON CONFLICT (`inode`) DO UPDATE SET `max_space`=excluded.`max_space`,\
        `max_inodes`=excluded.`max_inodes`,`used_space`=excluded.`used_space`,`used_inodes`=excluded.`used_inodes`";
    AddDirQuota = "UPDATE {=dir_quota} SET `used_space`=`used_space`+?2,`used_inodes`=`used_inodes`+?3 \
        WHERE `inode`=?1";
    PutUserGroupQuota = "INSERT INTO {=user_group_quota} \
        (`qtype`,`qkey`,`max_space`,`max_inodes`,`used_space`,`used_inodes`) VALUES (?1,?2,?3,?4,?5,?6) \
        ON CONFLICT (`qtype`,`qkey`) DO UPDATE SET `max_space`=excluded.`max_space`,\
        `max_inodes`=excluded.`max_inodes`,`used_space`=excluded.`used_space`,`used_inodes`=excluded.`used_inodes`";
    AddUserGroupQuota = "INSERT INTO {=user_group_quota} \
        (`qtype`,`qkey`,`max_space`,`max_inodes`,`used_space`,`used_inodes`) VALUES (?1,?2,-1,-1,?3,?4) \
        ON CONFLICT (`qtype`,`qkey`) DO UPDATE SET `used_space`=`used_space`+excluded.`used_space`,\
        `used_inodes`=`used_inodes`+excluded.`used_inodes`";
    DeleteDirQuota = "DELETE FROM {=dir_quota} WHERE `inode`=?1";
    DeleteAllUserGroupQuotas = "DELETE FROM {=user_group_quota}";
    PutAcl = "INSERT INTO {=acl} (`id`,`owner`,`group`,`mask`,`other`,`named_users`,`named_groups`) \
        VALUES (?1,?2,?3,?4,?5,?6,?7) ON CONFLICT (`id`) DO UPDATE SET `owner`=excluded.`owner`,\
        `group`=excluded.`group`,`mask`=excluded.`mask`,`other`=excluded.`other`,\
        `named_users`=excluded.`named_users`,`named_groups`=excluded.`named_groups`";
    PutSession = "INSERT INTO {=session2} (`sid`,`expire`,`info`) VALUES (?1,?2,?3) \
        ON CONFLICT (`sid`) DO UPDATE SET `expire`=excluded.`expire`,`info`=excluded.`info`";
    DeleteSession = "DELETE FROM {=session2} WHERE `sid`=?1";
    DeleteLegacySession = "DELETE FROM {=session} WHERE `sid`=?1";
    PutFlock = "INSERT INTO {=flock} (`inode`,`sid`,`owner`,`ltype`) VALUES (?1,?2,?3,?4) \
        ON CONFLICT (`inode`,`sid`,`owner`) DO UPDATE SET `ltype`=excluded.`ltype`";
    DeleteFlock = "DELETE FROM {=flock} WHERE `inode`=?1 AND `sid`=?2 AND `owner`=?3";
    PutPlocks = "INSERT INTO {=plock} (`inode`,`sid`,`owner`,`records`) VALUES (?1,?2,?3,?4) \
        ON CONFLICT (`inode`,`sid`,`owner`) DO UPDATE SET `records`=excluded.`records`";
    DeletePlock = "DELETE FROM {=plock} WHERE `inode`=?1 AND `sid`=?2 AND `owner`=?3";
    DeleteFlocks = "DELETE FROM {=flock} WHERE `sid`=?1";
    DeletePlocks = "DELETE FROM {=plock} WHERE `sid`=?1";
    PutSustained = "INSERT INTO {=sustained} (`sid`,`inode`) VALUES (?1,?2) ON CONFLICT (`sid`,`inode`) DO NOTHING";
    DeleteSustained = "DELETE FROM {=sustained} WHERE `sid`=?1 AND `inode`=?2";
    PutDelFile = "INSERT INTO {=delfile} (`inode`,`length`,`expire`) VALUES (?1,?2,?3) \
        ON CONFLICT (`inode`) DO UPDATE SET `length`=excluded.`length`,`expire`=excluded.`expire`";
    DeleteDelFile = "DELETE FROM {=delfile} WHERE `inode`=?1";
    PutDelaySlices = "INSERT INTO {=delslices} (`chunkid`,`deleted`,`slices`) VALUES (?1,?2,?3) \
        ON CONFLICT (`chunkid`) DO UPDATE SET `deleted`=excluded.`deleted`,`slices`=excluded.`slices`";
    DeleteDelaySlices = "DELETE FROM {=delslices} WHERE `chunkid`=?1";
    PutDetached = "INSERT INTO {=detached_node} (`inode`,`added`) VALUES (?1,?2) \
        ON CONFLICT (`inode`) DO UPDATE SET `added`=excluded.`added`";
    DeleteDetached = "DELETE FROM {=detached_node} WHERE `inode`=?1";
    SetCounter = "INSERT INTO {=counter} (`name`,`value`) VALUES (?1,?2) \
        ON CONFLICT (`name`) DO UPDATE SET `value`=excluded.`value`";
    AddCounter = "INSERT INTO {=counter} (`name`,`value`) VALUES (?1,?2) \
        ON CONFLICT (`name`) DO UPDATE SET `value`=`value`+excluded.`value`";
    SetSequence = "UPDATE `sqlite_sequence` SET `seq`=?2 WHERE `name`=?1";
    InsertSequence = "INSERT INTO `sqlite_sequence` (`name`,`seq`) VALUES (?1,?2)";
    PutSetting = "INSERT INTO {=setting} (`name`,`value`) VALUES ('format',?1) \
        ON CONFLICT (`name`) DO UPDATE SET `value`=excluded.`value`";
}

/// All statements, fitted to one database.
#[derive(Debug)]
pub(crate) struct Statements {
    schema: Schema,
    texts: Vec<String>,
    complete: bool,
}

impl Statements {
    /// Fits the statements to what the database has: what is missing reads as 0 or as no rows.
    pub(crate) fn new(schema: Schema) -> Self {
        let mut names: Vec<(String, String)> = Vec::new();
        for table in Table::ALL {
            names.push((format!("{{{}}}", table.name()), schema.source(*table)));
            names.push((format!("{{={}}}", table.name()), format!("`{}`", schema.table_name(*table))));
        }
        let list = |each: &dyn Fn(usize, &str) -> String| {
            let items: Vec<_> = NODE_COLUMNS.iter().enumerate().map(|(at, name)| each(at + 1, name)).collect();
            items.join(",")
        };
        let readable = |name: &str| !schema.has(Table::Node) || schema.has_node_column(name);
        names.push((
            "{n.*}".to_owned(),
            list(&|_, name| if readable(name) { format!("n.`{name}`") } else { "0".to_owned() }),
        ));
        names.push(("{columns}".to_owned(), list(&|_, name| format!("`{name}`"))));
        names.push(("{values}".to_owned(), list(&|at, _| format!("?{at}"))));
        // The inode is the key: the engine would take an assignment to it for a move of the row.
        let assignments = list(&|at, name| format!("`{name}`=?{at}")).replacen("`inode`=?1,", "", 1);
        names.push(("{assignments}".to_owned(), assignments));
        let fit =
            |template: &&str| names.iter().fold((*template).to_owned(), |text, (from, to)| text.replace(from, to));
        let texts = TEMPLATES.iter().map(fit).collect();
        let complete = schema.is_complete();
        Self { schema, texts, complete }
    }

    /// The text of a statement.
    pub(crate) fn text(&self, statement: Statement) -> &str {
        &self.texts[statement as usize]
    }

    /// What the statements were fitted to.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether the database has everything that writing needs.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let statements = Statements::new(Schema::empty("x"));
        for text in &statements.texts {
            assert!(!text.contains('{') && !text.contains('}'), "{text}");
        }
        assert!(!statements.is_complete());
    }
}
