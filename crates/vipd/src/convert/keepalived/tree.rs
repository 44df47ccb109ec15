//! keepalived.conf as statements and blocks, with includes, definitions and conditional lines resolved.

use std::rc::Rc;

use super::words::{Definitions, Token, tokens};
use crate::convert::Include;
use crate::convert::report::{At, Fault, Kind, Report};

/// How deep files may include one another.
const INCLUDES_DEEP_MAX: usize = 8;
/// How deep blocks may stand in one another; keepalived's own go to five.
const BLOCKS_DEEP_MAX: usize = 16;
/// How many statements all files have together.
const STATEMENTS_MAX: usize = 20_000;

/// A line, or a block with what is in it.
#[derive(Debug)]
pub(super) struct Statement {
    /// Where it begins.
    pub(super) at: At,
    /// Its words; never none.
    pub(super) words: Vec<String>,
    /// What stands between its braces.
    pub(super) block: Option<Vec<Self>>,
}

impl Statement {
    /// Its first word.
    pub(super) fn key(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The word after it.
    pub(super) fn value(&self) -> Option<&str> {
        self.words.get(1).map(String::as_str)
    }

    /// What stands in its block.
    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Reads files one after the other into one tree.
pub(super) struct Tree<'a> {
    include: &'a mut Include<'a>,
    report: &'a mut Report,
    node: Option<&'a str>,
    definitions: Definitions,
    roots: Vec<Statement>,
    /// The blocks that are open, the outermost first.
    open: Vec<Statement>,
    count: usize,
}

impl<'a> Tree<'a> {
    /// An empty one. `node` is whose conditional lines count.
    pub(super) fn new(include: &'a mut Include<'a>, report: &'a mut Report, node: Option<&'a str>) -> Self {
        Self {
            include,
            report,
            node,
            definitions: Definitions::default(),
            roots: Vec::new(),
            open: Vec::new(),
            count: 0,
        }
    }

    /// Reads one file, and what it includes.
    ///
    /// # Errors
    /// The first thing that is not of keepalived's grammar.
    pub(super) fn read(&mut self, file: &Rc<str>, text: &str) -> Result<(), Fault> {
        self.read_at(file, text, 0)
    }

    /// All statements.
    pub(super) fn finish(self) -> Vec<Statement> {
        self.roots
    }

    fn read_at(&mut self, file: &Rc<str>, text: &str, depth: usize) -> Result<(), Fault> {
        let floor = self.open.len();
        for (place, line) in text.lines().enumerate() {
            let at = At { file: Rc::clone(file), line: place + 1 };
            self.line(line, &at, depth, floor)?;
        }
        match self.open.get(floor) {
            None => Ok(()),
            Some(block) => {
                let message = format!("the block `{}` is not closed", block.words.join(" "));
                Err(Fault::new(&block.at, message, "add a } before the end of the file"))
            }
        }
    }

    fn line(&mut self, line: &str, at: &At, depth: usize, floor: usize) -> Result<(), Fault> {
        if line.trim_start().starts_with('~') {
            let message = "`~SEQ` and `~LST` are not read here";
            return Err(Fault::new(at, message, "write the lines that it stands for"));
        }
        if self.definitions.define(line, at)? {
            return Ok(());
        }
        let filled = self.definitions.fill(line, at)?;
        let mut tokens = tokens(&filled, at)?;
        if let Some(Token::Word(first)) = tokens.first()
            && let Some(condition) = first.strip_prefix('@')
        {
            let condition = condition.to_owned();
            if !self.counts(&condition, &tokens, at)? {
                return Ok(());
            }
            tokens.remove(0);
        }
        if let [Token::Word(key), Token::Word(pattern)] = &tokens[..]
            && is_include(key)
        {
            return self.include(key, pattern, at, depth);
        }
        self.statements(tokens, at, floor)
    }

    /// Whether a line that is meant for one host counts on this one.
    fn counts(&mut self, condition: &str, tokens: &[Token], at: &At) -> Result<bool, Fault> {
        if tokens.iter().any(|token| matches!(token, Token::Open | Token::Close)) {
            let message = "a conditional line opens or closes a block";
            return Err(Fault::new(at, message, "give each host a file of its own, without @ lines"));
        }
        let (name, negated) = match condition.strip_prefix('^') {
            Some(name) => (name, true),
            None => (condition, false),
        };
        let words: Vec<String> = tokens.iter().filter_map(word).collect();
        let Some(node) = self.node else {
            let told = "a line for one host alone: `--node NAME` says which this is";
            self.report.note(Kind::Missing, at, &words, told);
            return Ok(false);
        };
        let counts = (name == node) != negated;
        let told = if counts { "counts on this host" } else { "is for another host" };
        self.report.note(if counts { Kind::Carried } else { Kind::Lost }, at, &words, told);
        Ok(counts)
    }

    fn include(&mut self, key: &str, pattern: &str, at: &At, depth: usize) -> Result<(), Fault> {
        if depth >= INCLUDES_DEEP_MAX {
            let message = format!("files include one another more than {INCLUDES_DEEP_MAX} deep");
            return Err(Fault::new(at, message, "does one include itself?"));
        }
        let texts = (self.include)(&at.file, pattern)
            .map_err(|why| Fault::new(at, format!("`{pattern}`: {why}"), "give the files that it needs"))?;
        let told = match texts.len() {
            0 => "no file is of that name".to_owned(),
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        };
        let kind = if texts.is_empty() { Kind::Lost } else { Kind::Carried };
        self.report.note(kind, at, &[key.to_owned(), pattern.to_owned()], told);
        for (file, text) in texts {
            self.read_at(&file, &text, depth + 1)?;
        }
        Ok(())
    }

    fn statements(&mut self, tokens: Vec<Token>, at: &At, floor: usize) -> Result<(), Fault> {
        let mut words = Vec::new();
        for token in tokens {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => self.begin(std::mem::take(&mut words), at)?,
                Token::Close => {
                    self.add(std::mem::take(&mut words), at)?;
                    if self.open.len() <= floor {
                        return Err(Fault::new(at, "a } closes nothing", "remove it"));
                    }
                    let block = self.open.pop();
                    self.level().extend(block);
                }
            }
        }
        self.add(words, at)
    }

    /// The statements of the innermost block that is open.
    fn level(&mut self) -> &mut Vec<Statement> {
        match self.open.last_mut() {
            Some(block) => block.block.get_or_insert_default(),
            None => &mut self.roots,
        }
    }

    fn begin(&mut self, words: Vec<String>, at: &At) -> Result<(), Fault> {
        if self.open.len() >= BLOCKS_DEEP_MAX {
            let message = format!("blocks stand more than {BLOCKS_DEEP_MAX} deep in one another");
            return Err(Fault::new(at, message, "is a } missing?"));
        }
        let statement = if words.is_empty() {
            // The brace on a line of its own.
            let before = self.level().pop_if(|before| before.block.is_none());
            before
                .ok_or_else(|| Fault::new(at, "a { follows nothing", "write what the block is before it"))?
        } else {
            self.count(at)?;
            self.report.expect(at, &words);
            Statement { at: at.clone(), words, block: None }
        };
        self.open.push(Statement { block: Some(Vec::new()), ..statement });
        Ok(())
    }

    fn add(&mut self, words: Vec<String>, at: &At) -> Result<(), Fault> {
        if words.is_empty() {
            return Ok(());
        }
        self.count(at)?;
        if let Some(word) = words.iter().skip(1).find(|word| is_reference(word))
            && words[0] != "auth_pass"
        {
            let message = format!("`{word}` is defined nowhere before this line");
            return Err(Fault::new(at, message, "define it by $NAME=VALUE, or write the value"));
        }
        self.report.expect(at, &words);
        let statement = Statement { at: at.clone(), words, block: None };
        self.level().push(statement);
        Ok(())
    }

    fn count(&mut self, at: &At) -> Result<(), Fault> {
        self.count += 1;
        if self.count > STATEMENTS_MAX {
            let message = format!("there are more than {STATEMENTS_MAX} statements");
            return Err(Fault::new(at, message, "is this the right file?"));
        }
        Ok(())
    }
}

fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.clone()),
        Token::Open | Token::Close => None,
    }
}

/// `include`, and its forms that are stricter about missing files.
fn is_include(key: &str) -> bool {
    key.strip_prefix("include").is_some_and(|rest| rest.chars().all(|c| "rmwbag".contains(c)))
}

fn is_reference(word: &str) -> bool {
    word.strip_prefix('$')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '{'))
}
