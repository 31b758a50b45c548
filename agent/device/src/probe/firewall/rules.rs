//! Just enough of a firewall's rules to tell whether what no rule expects is let in.

use std::collections::BTreeMap;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// All rules that a packet to this machine may meet.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    tables: Vec<Table>,
}

#[derive(Debug, Default)]
struct Table {
    families: Vec<Family>,
    /// Whether it is loaded and switched off: no packet meets it.
    dormant: bool,
    chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// Whether packets to this machine come here first.
    input: bool,
    /// Whether what falls through is dropped.
    drops: bool,
    rules: Vec<Rule>,
}

/// A rule without a condition; the others decide about some packets only.
#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Deny,
    Accept,
    Return,
    Jump(String),
    Goto(String),
}

/// What becomes of a packet that no condition meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Denied,
    Accepted,
    FallsThrough,
}

/// Deepest jump; the kernel allows 16 (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: u8 = 16;

impl Ruleset {
    /// Whether an unexpected packet of this family is kept out.
    pub(super) fn closes(&self, family: Family) -> bool {
        self.tables
            .iter()
            .filter(|table| !table.dormant && table.families.contains(&family))
            .flat_map(|table| table.chains.values().map(move |chain| (table, chain)))
            .filter(|(_, chain)| chain.input)
            .any(|(table, chain)| match table.fate(chain, JUMPS_MAX) {
                Fate::Denied => true,
                Fate::Accepted => false,
                Fate::FallsThrough => chain.drops,
            })
    }

    /// Adds what `nft list ruleset` says.
    pub(super) fn add_nft(&mut self, text: &str) {
        let mut table = Table::default();
        let mut chain: Option<(String, Chain)> = None;
        let mut depth = 0_u32;
        let mut rule = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some((name, mut open)) = chain.take() {
                if rule.is_empty() && line == "}" {
                    table.chains.insert(name, open);
                } else {
                    // A set within a rule may go over several lines.
                    rule.push_str(line);
                    rule.push(' ');
                    if rule.matches('{').count() == rule.matches('}').count() {
                        open.add_nft(&rule.split_whitespace().collect::<Vec<&str>>());
                        rule.clear();
                    }
                    chain = Some((name, open));
                }
                continue;
            }
            match (
                depth,
                line.split_whitespace().collect::<Vec<&str>>().as_slice(),
            ) {
                // Behind the brace a table with an owner names it: `# progname firewalld`.
                (0, ["table", family, _, "{", ..]) => {
                    table.families = match *family {
                        "inet" => vec![Family::V4, Family::V6],
                        "ip" => vec![Family::V4],
                        "ip6" => vec![Family::V6],
                        _ => Vec::new(),
                    };
                    depth = 1;
                }
                (1, ["flags", flags @ ..]) => {
                    table.dormant |= flags
                        .iter()
                        .flat_map(|word| word.split([',', ';']))
                        .any(|flag| flag == "dormant");
                }
                (1, ["chain", name, "{"]) => chain = Some(((*name).to_owned(), Chain::default())),
                (1, ["}"]) => {
                    self.tables.push(std::mem::take(&mut table));
                    depth = 0;
                }
                (_, ["}"]) => depth = depth.saturating_sub(1),
                // A set, a map, a named counter: nothing in it decides.
                (_, [.., "{"]) => depth += 1,
                _ => {}
            }
        }
    }

    /// Adds what `iptables -S` says.
    pub(super) fn add_iptables(&mut self, family: Family, text: &str) {
        let mut table = Table {
            families: vec![family],
            ..Table::default()
        };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["-P", name, policy] => {
                    let chain = table.chains.entry((*name).to_owned()).or_default();
                    chain.input = *name == "INPUT";
                    chain.drops = *policy == "DROP";
                }
                ["-A", name, "-j", target, ..] => table.add(name, target, Rule::Jump),
                ["-A", name, "-g", target] => table.add(name, target, Rule::Goto),
                _ => {}
            }
        }
        self.tables.push(table);
    }
}

impl Table {
    fn add(&mut self, chain: &str, target: &str, other: fn(String) -> Rule) {
        let rule = match target {
            "DROP" | "REJECT" => Rule::Deny,
            "ACCEPT" => Rule::Accept,
            "RETURN" => Rule::Return,
            chain => other(chain.to_owned()),
        };
        self.chains
            .entry(chain.to_owned())
            .or_default()
            .rules
            .push(rule);
    }

    fn fate(&self, chain: &Chain, jumps: u8) -> Fate {
        let below = |name: &str| match (self.chains.get(name), jumps.checked_sub(1)) {
            (Some(chain), Some(jumps)) => self.fate(chain, jumps),
            // A target that is no chain, such as LOG, lets the packet go on.
            (Some(_), None) | (None, _) => Fate::FallsThrough,
        };
        for rule in &chain.rules {
            match rule {
                Rule::Deny => return Fate::Denied,
                Rule::Accept => return Fate::Accepted,
                Rule::Return => return Fate::FallsThrough,
                Rule::Goto(name) => return below(name),
                Rule::Jump(name) => match below(name) {
                    Fate::FallsThrough => {}
                    decided @ (Fate::Denied | Fate::Accepted) => return decided,
                },
            }
        }
        Fate::FallsThrough
    }
}

impl Chain {
    fn add_nft(&mut self, words: &[&str]) {
        if let ["type", "filter", "hook", hook, ..] = words {
            self.input = *hook == "input";
            self.drops = words.windows(2).any(|pair| pair == ["policy", "drop;"]);
            return;
        }
        self.rules.extend(unconditional(words));
    }
}

/// The verdict of an nft rule that no condition stands before.
fn unconditional(words: &[&str]) -> Option<Rule> {
    match words {
        ["counter", "packets", _, "bytes", _, rest @ ..] | ["counter", rest @ ..] => {
            unconditional(rest)
        }
        ["log", rest @ ..] => {
            let verdicts = ["drop", "reject", "accept", "return", "jump", "goto"];
            // The prefix is quoted, so that a bare verdict is one.
            let at = rest.iter().position(|word| verdicts.contains(word))?;
            unconditional(rest.get(at..)?)
        }
        ["drop" | "reject", ..] | ["xt", "target", "\"REJECT\"", ..] => Some(Rule::Deny),
        ["accept", ..] => Some(Rule::Accept),
        ["return", ..] => Some(Rule::Return),
        ["jump", chain, ..] => Some(Rule::Jump((*chain).to_owned())),
        ["goto", chain, ..] => Some(Rule::Goto((*chain).to_owned())),
        _ => None,
    }
}
