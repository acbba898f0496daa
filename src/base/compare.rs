//! Comparison strings such as `"<=3"` or `">45s"`: rules stay data, never an expression language.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

impl Operator {
    /// Splits `"<=3"` into the operator and the operand's text. `None` without an operator.
    pub fn split(text: &str) -> Option<(Self, &str)> {
        const OPERATORS: [(&str, Operator); 5] = [
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
            ("=", Operator::Equal),
        ];
        let text = text.trim();
        OPERATORS
            .iter()
            .find_map(|(sign, operator)| text.strip_prefix(sign).map(|rest| (*operator, rest.trim())))
    }

    pub fn holds<T: PartialOrd>(self, seen: &T, bound: &T) -> bool {
        match self {
            Self::Less => seen < bound,
            Self::LessOrEqual => seen <= bound,
            Self::Greater => seen > bound,
            Self::GreaterOrEqual => seen >= bound,
            Self::Equal => seen == bound,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "=",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_splits_and_holds() {
        let check = |text: &str, seen: i32, expected: bool| {
            let (operator, bound) = Operator::split(text).expect(text);
            assert_eq!(operator.holds(&seen, &bound.parse().expect(text)), expected, "{seen} {text}");
        };
        check("<=3", 3, true);
        check("< 3", 3, false);
        check(">=3", 3, true);
        check(">3", 4, true);
        check("=3", 4, false);
        assert_eq!(Operator::split("3"), None);
    }
}
