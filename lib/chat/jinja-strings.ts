/** Methods of strings inside templates, as Python has them; all of them look at the text without marks. */
import { type JinjaValue, makeArray, makeBoolean, makeInteger, makeString, TemplateFault } from './jinja-values'

/** What the methods need of the fence. */
export interface Meter {
  spend(units: number): void
  checkLength(chars: number): void
  plain(text: string): string
}

export type StringMethod = (receiver: JinjaValue, args: JinjaValue[], named: Map<string, JinjaValue>) => JinjaValue

/** What Python's str.strip() removes; JavaScript's trim() differs in U+001C to U+001F, U+0085 and U+FEFF. */
const WHITESPACE =
  '\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000'

export function stringMethods(meter: Meter): ReadonlyMap<string, StringMethod> {
  const text = (value: JinjaValue | undefined, name: string): string => {
    if (value?.type !== 'StringValue') throw new TemplateFault('error', `${name}: expected a string`)
    return meter.plain(value.value as string)
  }
  const count = (value: JinjaValue | undefined, fallback: number): number =>
    value?.type === 'IntegerValue' ? (value.value as number) : fallback

  /** strip, lstrip and rstrip keep marks: they only cut ends off, and no mark stands at a place that they reach. */
  const strip =
    (left: boolean, right: boolean): StringMethod =>
    (receiver, args) => {
      const value = receiver.value as string
      meter.spend(1 + value.length / 256)
      const given = args[0]
      const chars = given === undefined || given.type === 'NullValue' ? WHITESPACE : text(given, 'strip')
      let start = 0
      let end = value.length
      if (left) while (start < end && chars.includes(value[start]!)) start++
      if (right) while (end > start && chars.includes(value[end - 1]!)) end--
      meter.spend(((start + value.length - end) * (1 + chars.length / 32)) / 32)
      return makeString(value.slice(start, end))
    }

  const affix =
    (name: 'startsWith' | 'endsWith'): StringMethod =>
    (receiver, args) => {
      const value = text(receiver, name)
      const given = args[0]
      const options = Array.isArray(given?.value) ? (given.value as JinjaValue[]) : [given]
      return makeBoolean(options.some((option) => value[name](text(option, name))))
    }

  const split: StringMethod = (receiver, args, named) => {
    const value = text(receiver, 'split')
    const separator = args[0] ?? named.get('sep')
    const limit = count(args[1] ?? named.get('maxsplit'), -1)
    let parts: string[]
    if (separator === undefined || separator.type === 'NullValue') {
      parts = splitSpace(value, limit)
    } else {
      const by = text(separator, 'split')
      if (by === '') throw new TemplateFault('error', 'split: empty separator')
      parts = value.split(by)
      if (limit >= 0 && parts.length > limit + 1) parts.push(parts.splice(limit).join(by))
    }
    meter.spend(parts.length)
    return makeArray(parts.map(makeString))
  }

  const replace: StringMethod = (receiver, args, named) => {
    const value = text(receiver, 'replace')
    const from = text(args[0] ?? named.get('old'), 'replace')
    const to = text(args[1] ?? named.get('new'), 'replace')
    const limit = count(args[2] ?? named.get('count'), -1)
    const parts = from === '' ? ['', ...value, ''] : value.split(from)
    const times = limit < 0 ? parts.length - 1 : Math.min(limit, parts.length - 1)
    meter.checkLength(value.length + times * Math.max(0, to.length - from.length))
    meter.spend(parts.length / 4)
    return makeString(
      parts.slice(0, times + 1).join(to) +
        parts
          .slice(times + 1)
          .map((part) => from + part)
          .join(''),
    )
  }

  const find: StringMethod = (receiver, args) => makeInteger(text(receiver, 'find').indexOf(text(args[0], 'find')))
  const map =
    (change: (value: string) => string): StringMethod =>
    (receiver) => {
      const value = receiver.value as string
      meter.checkLength(value.length)
      return makeString(change(value))
    }

  return new Map<string, StringMethod>([
    ['strip', strip(true, true)],
    ['lstrip', strip(true, false)],
    ['rstrip', strip(false, true)],
    ['startswith', affix('startsWith')],
    ['endswith', affix('endsWith')],
    ['split', split],
    ['replace', replace],
    ['find', find],
    ['upper', map((value) => value.toUpperCase())],
    ['lower', map((value) => value.toLowerCase())],
    [
      'title',
      map((value) => value.replace(/\p{L}+/gu, (word) => word[0]!.toUpperCase() + word.slice(1).toLowerCase())),
    ],
    ['capitalize', map((value) => value.charAt(0).toUpperCase() + value.slice(1).toLowerCase())],
  ])
}

/** Python's split() without a separator: runs of whitespace separate, ends are trimmed. */
function splitSpace(value: string, limit: number): string[] {
  const parts: string[] = []
  let at = 0
  for (;;) {
    while (at < value.length && WHITESPACE.includes(value[at]!)) at++
    if (at >= value.length) return parts
    if (limit >= 0 && parts.length === limit) {
      let end = value.length
      while (WHITESPACE.includes(value[end - 1]!)) end--
      parts.push(value.slice(at, end))
      return parts
    }
    const start = at
    while (at < value.length && !WHITESPACE.includes(value[at]!)) at++
    parts.push(value.slice(start, at))
  }
}
