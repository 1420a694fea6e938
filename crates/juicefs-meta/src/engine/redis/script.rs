//! Lua scripts that check guards and then apply effects. The text of a script depends on the kinds of its steps only, so
//! a few dozen scripts serve every operation: keys and values are arguments.
//!
//! A script runs alone and to its end. Steps that can refuse come before the first write; what follows cannot fail unless
//! a record has the wrong type, which is damage.
//!
//! All keys are declared. In a cluster there is one more, which never exists: a node that is about to give the slot away ends a
//! script in the middle when the key of a command is not there any more, be it that the script itself took the last entry out of
//! a hash. Such a node does not begin a script that declares a key which is not there.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::layout::redis::Text;

/// From how many equal steps in a row on a script loops over them, so that long changes share a script.
const LOOP_FROM: usize = 4;
/// Scripts kept at hand; there are far fewer shapes than this, so it is never reached by ordinary work.
const SCRIPTS_MAX: usize = 1024;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident($keys:literal, $args:literal) = $body:literal;)*) => {
        /// One thing that a script does. `K1`.. stand for its keys, `A1`.. for its other arguments.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub(super) enum StepKind { $($(#[$doc])* $name,)* }

        impl StepKind {
            fn parts(self) -> (usize, usize, &'static str) {
                match self { $(Self::$name => ($keys, $args, $body),)* }
            }
        }
    };
}

steps! {
    /// The session is alive.
    Alive(1, 1) = "if not c('ZSCORE',K1,A1) then return -1 end";
    /// A string is what it was.
    Same(1, 1) = "if c('GET',K1)~=A1 then return 0 end";
    /// There is no such key.
    Absent(1, 0) = "if c('EXISTS',K1)~=0 then return 0 end";
    /// There is such a key.
    Present(1, 0) = "if c('EXISTS',K1)~=1 then return 0 end";
    /// A number is what it was; a missing one is 0.
    SameNumber(1, 1) = "if (c('GET',K1) or '0')~=A1 then return 0 end";
    /// A node may be used as it could: its head and its tail are what they were.
    SamePermissions(1, 2) = "do local v=c('GET',K1) if not v or sub(v,1,11)~=A1 or sub(v,64)~=A2 then return 0 end end";
    /// A node has its kind and its parent.
    SamePlace(1, 2) =
        "do local v=c('GET',K1) if not v or byte(v,2)-byte(v,2)%16~=byte(A1) or sub(v,64,71)~=A2 then return 0 end end";
    /// A node has its kind.
    SameKind(1, 1) = "do local v=c('GET',K1) if not v or byte(v,2)-byte(v,2)%16~=byte(A1) then return 0 end end";
    /// A node is what it was but for its times: what is before and what is behind them.
    SameButTimes(1, 2) = "do local v=c('GET',K1) if not v or sub(v,1,11)~=A1 or sub(v,48)~=A2 then return 0 end end";
    /// Likewise, and its length, whose place is left out of what is behind, is at least this.
    SameButGrowth(1, 3) = "do local v=c('GET',K1) if not v or sub(v,1,11)~=A1 or sub(v,48,51)..sub(v,60)~=A2 \
        or shorter(sub(v,52,59),A3) then return 0 end end";
    /// A field is what it was.
    SameField(1, 2) = "if c('HGET',K1,A1)~=A2 then return 0 end";
    /// There is no such field.
    NoField(1, 1) = "if c('HEXISTS',K1,A1)~=0 then return 0 end";
    /// A number in a field is what it was; a missing one is 0.
    SameFieldNumber(1, 2) = "if (c('HGET',K1,A1) or '0')~=A2 then return 0 end";
    /// A number in a field is at most this; a missing one is 0.
    FieldAtMost(1, 2) = "if tonumber(c('HGET',K1,A1) or '0')>tonumber(A2) then return 0 end";
    /// So many fields have a number above 0.
    PositiveFields(1, 1) =
        "do local n=0 for _,v in ipairs(c('HVALS',K1)) do if tonumber(v)>0 then n=n+1 end end if n~=tonumber(A1) then return 0 end end";
    /// There are so many fields.
    FieldCount(1, 1) = "if c('HLEN',K1)~=tonumber(A1) then return 0 end";
    /// A list is what it was.
    SameList(1, 1) = "if table.concat(c('LRANGE',K1,0,-1))~=A1 then return 0 end";
    /// A list begins with what it was, up to a position.
    SameHead(1, 2) = "if table.concat(c('LRANGE',K1,0,A2))~=A1 then return 0 end";
    /// A set has the member, or has it not.
    SameMember(1, 2) = "if c('SISMEMBER',K1,A1)~=tonumber(A2) then return 0 end";
    /// A set has so many members.
    MemberCount(1, 1) = "if c('SCARD',K1)~=tonumber(A1) then return 0 end";
    /// A member has the score that it had.
    SameScore(1, 2) = "if c('ZSCORE',K1,A1)~=A2 then return 0 end";
    /// There is no such member.
    NoScore(1, 1) = "if c('ZSCORE',K1,A1) then return 0 end";

    /// Stores a string.
    Set(1, 1) = "c('SET',K1,A1)";
    /// Removes a key.
    Delete(1, 0) = "c('DEL',K1)";
    /// Adds to a number.
    Add(1, 1) = "c('INCRBY',K1,A1)";
    /// Stores a field.
    SetField(1, 2) = "c('HSET',K1,A1,A2)";
    /// Removes a field.
    DeleteField(1, 1) = "c('HDEL',K1,A1)";
    /// Adds to the number in a field that stands for 0 when it is missing.
    AddField(1, 2) = "if c('HINCRBY',K1,A1,A2)==0 then c('HDEL',K1,A1) end";
    /// Likewise for a number that means nothing from 0 down.
    AddPositiveField(1, 2) = "if c('HINCRBY',K1,A1,A2)<=0 then c('HDEL',K1,A1) end";
    /// Changes the link count of a node by a number and moves its times on, unless they are ahead.
    Patch(1, 2) = "do local v=c('GET',K1) local m,e,l=sub(v,24,35),sub(v,36,47),sub(v,48,51) \
        if A2~='' then m=later(m,A2) e=later(e,A2) end \
        if A1~='0' then l=struct.pack('>I4',math.min(4294967295,math.max(0,up('>I4',l)+A1))) end \
        c('SET',K1,sub(v,1,23)..m..e..l..sub(v,52)) end";
    /// The content of a node was written: it has this mtime, a later ctime, and at least this length.
    Wrote(1, 3) = "do local v=c('GET',K1) local l=sub(v,52,59) if shorter(l,A3) then l=A3 end \
        c('SET',K1,sub(v,1,23)..A1..later(after(sub(v,36,47)),A2)..sub(v,48,51)..l..sub(v,60)) end";
    /// Adds to the usage of a directory if it has a quota.
    AddDirQuota(3, 3) = "if c('HEXISTS',K1,A1)==1 then c('HINCRBY',K2,A1,A2) c('HINCRBY',K3,A1,A3) end";
    /// Adds to the usage of a user or group, who gets a record without limits if there is none.
    AddOwnerQuota(3, 4) = "c('HSETNX',K1,A1,A4) c('HINCRBY',K2,A1,A2) c('HINCRBY',K3,A1,A3)";
    /// Appends 24-byte records to a list; the new length is part of the answer.
    Append(1, 1) = "do local n for p=1,#A1,24 do n=c('RPUSH',K1,sub(A1,p,p+23)) end r[#r+1]=n end";
    /// Replaces so many records at the start of a list by others of 24 bytes.
    ReplaceHead(1, 2) = "c('LTRIM',K1,A1,-1) for p=#A2-23,1,-24 do c('LPUSH',K1,sub(A2,p,p+23)) end";
    /// Replaces a list by 24-byte records.
    PutList(1, 1) = "c('DEL',K1) for p=1,#A1,24 do c('RPUSH',K1,sub(A1,p,p+23)) end";
    /// Adds a member.
    AddMember(1, 1) = "c('SADD',K1,A1)";
    /// Removes a member.
    DeleteMember(1, 1) = "c('SREM',K1,A1)";
    /// Stores a member with a score.
    SetScore(1, 2) = "c('ZADD',K1,A2,A1)";
    /// Removes a member.
    DeleteScore(1, 1) = "c('ZREM',K1,A1)";
    /// Removes what a session holds of the locks on a file.
    DeleteLocks(1, 1) = "for _,f in ipairs(c('HKEYS',K1)) do if sub(f,1,#A1)==A1 then c('HDEL',K1,f) end end";
    /// A client is at work: what it notes down lives on.
    Renew(1, 1) = "c('EXPIRE',K1,A1)";
    /// Adds to the statistics of a directory that has some; the answer tells which have none.
    AddStat(3, 4) = "if c('HEXISTS',K3,A1)==1 then c('HINCRBY',K1,A1,A2) c('HINCRBY',K2,A1,A3) c('HINCRBY',K3,A1,A4) \
        r[#r+1]=1 else r[#r+1]=0 end";
}

/// What every script begins with: the change may have been made by an earlier copy of the request.
const HEAD: &str = "local c=redis.call local sub,byte,up=string.sub,string.byte,struct.unpack local k,a,r=0,0,{} \
    local o=c('GETRANGE',KEYS[1],ARGV[1],ARGV[2]) \
    if #o==8 and up('>I8',o)>=up('>I8',ARGV[3]) then return 2 end\n";
/// The later of two times as nodes store them, for scripts that need it. Strings are not compared as such: that depends on
/// the server's locale.
const LATER: &str = "local function later(x,y) if byte(x)>127 then return y end \
    local s,n=up('>I8I4',x) local t,m=up('>I8I4',y) if s<t or s==t and n<m then return y end return x end\n";
/// Whether a length as nodes store it is less than another; a number of Lua does not hold all of them.
const SHORTER: &str =
    "local function shorter(x,y) local a,b=up('>I4I4',x) local p,q=up('>I4I4',y) return a<p or a==p and b<q end\n";
/// The next time that can be told from one as nodes store it. One before 1970 is earlier than any that is compared with it.
const AFTER: &str = "local function after(x) if byte(x)>127 then return x end local s,n=up('>I8I4',x) \
    if n<999999999 then n=n+1 else s,n=s+1,0 end return struct.pack('>I8I4',s,n) end\n";
/// And ends with.
const TAIL: &str = "c('SETRANGE',KEYS[1],ARGV[1],ARGV[3]) if #o==0 then c('EXPIRE',KEYS[1],ARGV[4]) end \
    if #r>0 then return r end return 1";
/// Keys and arguments that HEAD and TAIL use.
const HEAD_KEYS: usize = 1;
const HEAD_ARGS: usize = 4;

/// Steps with their keys and arguments.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: SmallVec<[StepKind; 16]>,
    pub(super) keys: SmallVec<[Text; 16]>,
    pub(super) args: SmallVec<[Text; 24]>,
}

impl Plan {
    pub(super) fn push<const K: usize, const A: usize>(&mut self, step: StepKind, keys: [Text; K], args: [Text; A]) {
        debug_assert_eq!((step.parts().0, step.parts().1), (K, A), "{step:?}");
        self.steps.push(step);
        self.keys.extend(keys);
        self.args.extend(args);
    }

    /// The shape of the script and the arguments as it takes them: runs of equal steps carry their number.
    fn shape(&self) -> (SmallVec<[u8; 32]>, SmallVec<[Text; 24]>) {
        let mut shape = SmallVec::new();
        let mut args = SmallVec::new();
        let mut rest = self.args.iter();
        let mut at = 0;
        while at < self.steps.len() {
            let step = self.steps[at];
            let run = self.steps[at..].iter().take_while(|other| **other == step).count();
            let looped = run >= LOOP_FROM;
            if looped {
                shape.push(u8::MAX);
                args.push(crate::layout::redis::number(run));
            }
            let steps = if looped { run } else { 1 };
            shape.push(step as u8);
            args.extend(rest.by_ref().take(steps * step.parts().1).cloned());
            at += steps;
        }
        (shape, args)
    }

    fn text(&self) -> String {
        let mut text = String::from(HEAD);
        for (function, steps) in [
            (LATER, &[StepKind::Patch, StepKind::Wrote][..]),
            (AFTER, &[StepKind::Wrote]),
            (SHORTER, &[StepKind::Wrote, StepKind::SameButGrowth]),
        ] {
            if steps.iter().any(|step| self.steps.contains(step)) {
                text.push_str(function);
            }
        }
        let (mut keys, mut args, mut at) = (HEAD_KEYS, HEAD_ARGS, 0);
        while at < self.steps.len() {
            let step = self.steps[at];
            let (step_keys, step_args, body) = step.parts();
            let run = self.steps[at..].iter().take_while(|other| **other == step).count();
            if run >= LOOP_FROM {
                args += 1;
                let body = named(body, keys, args);
                let _ =
                    writeln!(text, "for _=1,tonumber(ARGV[a+{args}]) do {body} k=k+{step_keys} a=a+{step_args} end");
                at += run;
            } else {
                text.push_str(&named(body, keys, args));
                text.push('\n');
                keys += step_keys;
                args += step_args;
                at += 1;
            }
        }
        text.push_str(TAIL);
        text
    }
}

/// `body` with its keys and arguments counted from these.
fn named(body: &str, keys: usize, args: usize) -> String {
    let mut out = String::with_capacity(body.len() + 32);
    let mut chars = body.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let place = chars.peek().and_then(|next| next.to_digit(10)).filter(|_| !before.is_ascii_alphanumeric());
        match (c, place) {
            ('K', Some(n)) => {
                chars.next();
                let _ = write!(out, "KEYS[k+{}]", keys + n as usize);
            }
            ('A', Some(n)) => {
                chars.next();
                let _ = write!(out, "ARGV[a+{}]", args + n as usize);
            }
            _ => out.push(c),
        }
        before = c;
    }
    out
}

/// A script with the digest under which a server knows it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: String,
    pub(super) digest: String,
}

impl Script {
    pub(super) fn new(text: String) -> Self {
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Self { text, digest }
    }
}

/// The scripts generated so far.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    by_shape: RwLock<HashMap<SmallVec<[u8; 32]>, Arc<Script>>>,
}

impl Scripts {
    /// The script of a plan, and its arguments behind those of every script.
    pub(super) fn script(&self, plan: &Plan) -> (Arc<Script>, SmallVec<[Text; 24]>) {
        let (shape, args) = plan.shape();
        if let Some(script) = self.by_shape.read().get(&shape) {
            return (Arc::clone(script), args);
        }
        let script = Arc::new(Script::new(plan.text()));
        let mut scripts = self.by_shape.write();
        if scripts.len() >= SCRIPTS_MAX {
            scripts.clear();
        }
        scripts.insert(shape, Arc::clone(&script));
        (script, args)
    }
}
