/** Deterministic strings for the tokenizer's tests and benchmark: natural ones in many languages, and hostile ones. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { SENTENCES } from './sentences'

/** A small generator of the mulberry32 kind: the same seed gives the same strings everywhere. */
export class Random {
  constructor(private state: number) {}

  /** In [0, 1). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number in [0, n). */
  below(n: number): number {
    return Math.floor(this.next() * n)
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }
}

/** What tokenizers get wrong: contractions, odd white space, marks out of order, jamo, joiners, control strings. */
export const FRAGMENTS: readonly string[] = [
  ...["'s", "'S", "'ſ", "'t", "'re", "'VE", "'m", "'ll", "'lL", "'d", "'", "''s", '’s', 'ſ', 'K', 'İ', 'ı', 'ß', 'ﬀ'],
  ...[' ', '  ', '    ', '\t', '\n', '\r\n', '\r', '\n\n', ' \n ', '\v', '\f', '\u0085', '\u00a0', '\u1680', '\u2028'],
  ...['\u2029', '\u202f', '\u3000', '\u180e', '\u200b', '\u200d', '\ufeff', '\u00ad', '\u2060', '\u061c', '\0', '\x7f'],
  ...[
    'e\u0301',
    '\u0301',
    '\u0323',
    'a\u0323\u0302',
    'ệ',
    '\u0344',
    '\u0345',
    '\u0338',
    '<\u0338',
    '≮',
    'Å',
    'Ω',
    '\u0958',
  ],
  ...['\u1100', '\u1161', '\u11a8', '각', '가', '가\u11a7', '\u09c7\u09be', '\u0bc6\u0bd7', '\u1112\u1161\u11ab'],
  ...[
    '\u{11099}\u{110ba}',
    '\u{1d15e}',
    '\u{1d157}\u{1d165}',
    '\u{2f804}',
    '豈',
    '\u{113c7}',
    '\u{16121}',
    '\u1e08f',
    '\u1ac1',
  ],
  ...['\u0378', '\u{e0100}', '\u{10ffff}', '\uffff', '\ufdd0', '\ue000', '\ud800', '\udc00', '\udbff\udbff', '\ufffd'],
  ...['0', '7', '1234567890', '3.14', '1e-9', '٣', '१', '½', 'Ⅷ', '²', '𝟙', '〇', '㊿', '0x1F'],
  ...[
    '<think>',
    '</think>',
    '<|im_start|>',
    '<|im_end|>',
    '<|im_end',
    '<|',
    '|>',
    '<tool_call>',
    '</tool_call>',
    '<<think>>',
  ],
  ...['👩‍🚀', '👨‍👩‍👧‍👦', '🇩🇪', '❤️', '🏽', '😀', '#️⃣', '\u{1f1e6}'],
  ...[
    '中',
    '文',
    '。',
    '，',
    'あ',
    'カ',
    'ｶﾞ',
    '한',
    'ก็',
    'न्',
    'ًا',
    'שׁ',
    'ё',
    'й',
    'ǆ',
    'ʼ',
    'ⴰ',
    '𐍈',
    '𒀭',
    '\u{11de0}',
    '\u088f',
  ],
  ...[
    'hello',
    'World',
    ' the',
    'ing',
    '_',
    '-',
    '==',
    '();',
    '{}',
    '</',
    '/*',
    '\\',
    '"',
    '%',
    '$',
    '…',
    '—',
    '://',
    '@',
    '#',
  ],
]

function randomCodePoint(random: Random): string {
  const kind = random.next()
  if (kind < 0.3) return String.fromCharCode(0x20 + random.below(0x5f))
  if (kind < 0.6) return String.fromCharCode(random.below(0x3000))
  if (kind < 0.8) return String.fromCharCode(random.below(0x10000)) // half pairs among them
  return String.fromCodePoint(0x10000 + random.below(kind < 0.95 ? 0x10000 : 0x100000))
}

/** Mixes of {@link FRAGMENTS} and random code points; with half pairs unless `wellFormed`. */
export function hostileStrings(seed: number, count: number, options: { wellFormed?: boolean } = {}): string[] {
  const random = new Random(seed)
  return Array.from({ length: count }, () => {
    let text = ''
    for (let n = 1 + random.below(24); n > 0; n--) {
      const kind = random.next()
      if (kind < 0.6) text += random.pick(FRAGMENTS)
      else if (kind < 0.7) text += random.pick(FRAGMENTS).repeat(random.below(12))
      else text += randomCodePoint(random)
    }
    return options.wellFormed ? wellFormed(text) : text
  })
}

/** The text with half pairs replaced by U+FFFD. */
export const wellFormed = (text: string) => Buffer.from(text, 'utf8').toString('utf8')

const LANGUAGES = Object.keys(SENTENCES)

/** Strings around the sentences of all languages: alone, decomposed, in upper case, joined, cut, with numbers in their script. */
export function naturalStrings(seed: number, perLanguage: number): string[] {
  const random = new Random(seed)
  const strings: string[] = []
  for (const language of LANGUAGES) {
    const sentences = SENTENCES[language]!
    strings.push(...sentences, sentences.join(' '))
    for (let i = 0; i < perLanguage; i++) strings.push(variation(random, language, random.pick(sentences)))
  }
  return strings
}

function variation(random: Random, language: string, sentence: string): string {
  const other = random.pick(SENTENCES[random.pick(LANGUAGES)]!)
  switch (random.below(8)) {
    case 0:
      return sentence.normalize('NFD')
    case 1:
      return sentence.toLocaleUpperCase()
    case 2:
      return `${sentence}\n\n${other}`
    case 3:
      return `${sentence.slice(random.below(sentence.length))}${other.slice(0, random.below(other.length))}`
    case 4:
      return `"${sentence}" (${new Intl.NumberFormat(language).format(random.next() * 1e6)})`
    case 5:
      return sentence.split(' ').join(random.pick(['  ', '\n', '\t', '\u3000', '_', '']))
    case 6:
      return sentence.normalize('NFKD').split('').reverse().join('')
    default:
      return `- ${sentence} ${random.pick(FRAGMENTS)} ${other}\r\n`
  }
}

/** Names of regions, languages and currencies in a language, from Node's own locale data. */
function lexicon(language: string): string[] {
  if (Intl.DisplayNames.supportedLocalesOf([language]).length === 0) return []
  const codes = { region: REGIONS, language: LANGUAGES, currency: Intl.supportedValuesOf('currency') }
  return Object.entries(codes).flatMap(([type, list]) => {
    const names = new Intl.DisplayNames([language], { type: type as 'region', fallback: 'none' })
    return list.flatMap((code) => names.of(code) ?? [])
  })
}
const LETTERS = Array.from('ABCDEFGHIJKLMNOPQRSTUVWXYZ')
const REGIONS = LETTERS.flatMap((a) => LETTERS.map((b) => a + b))

/** Prose in one language: its sentences with some of their words replaced by names. */
function foreignProse(random: Random, language: string, words: readonly string[], size: number): string {
  let text = ''
  while (text.length < size) {
    const sentence = random.pick(SENTENCES[language]!)
    if (words.length === 0) {
      text += `${sentence} `
      continue
    }
    const parts = sentence.split(' ')
    for (let i = 0; i < parts.length; i++) if (random.next() < 0.4) parts[i] = random.pick(words)
    text += `${parts.join(' ')} ${random.pick(words)}: ${random.pick(words)}. `
    if (random.next() < 0.2) text += '\n'
  }
  return text
}

function numbers(random: Random, size: number): string {
  let text = ''
  while (text.length < size) {
    const row = Array.from({ length: 4 }, () => (random.next() * 10 ** random.below(9)).toFixed(random.below(4)))
    const date = new Date(1e12 * random.next()).toISOString()
    text +=
      random.next() < 0.5
        ? `${date},${row.join(',')}\n`
        : `{"id": ${row[0]}, "at": "${date}", "v": [${row.join(', ')}]}\n`
  }
  return text
}

/** Text files of the installed packages whose names end so, in a fixed order, without minified ones. */
function packageTexts(endings: readonly string[], size: number): string {
  const root = path.join(__dirname, '../../node_modules')
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.some((ending) => file.endsWith(ending)))
    .sort()
  let text = ''
  const step = Math.max(1, Math.floor(files.length / 400))
  for (let i = 0; i < files.length && text.length < size; i += step) {
    const file = path.join(root, files[i]!)
    if (!statSync(file).isFile()) continue
    const content = readFileSync(file, 'utf8')
    if (content.length / (content.split('\n').length + 1) < 100) text += content.slice(0, 40_000)
  }
  return text
}

/**
 * Mixed text for the benchmark, in pieces of about `pieceBytes` UTF-8 bytes: a third each prose in all languages
 * above, English prose (the readmes of installed packages) and code; a tenth of the pieces are numbers and dates.
 */
export function mixedPieces(totalBytes: number, pieceBytes: number, seed = 1): string[] {
  const random = new Random(seed)
  const words = new Map(LANGUAGES.map((language) => [language, lexicon(language)]))
  const prose = packageTexts(['.md'], totalBytes / 2)
  const code = packageTexts(['.js', '.ts', '.mjs', '.py', '.json'], totalBytes / 2)
  const at = { prose: 0, code: 0 }
  const pieces: string[] = []
  for (let bytes = 0, i = 0; bytes < totalBytes; i++) {
    const language = LANGUAGES[i % LANGUAGES.length]!
    const kind = random.next()
    let text: string
    if (kind < 0.1) text = numbers(random, pieceBytes)
    else if (kind < 0.4) text = nextOf(prose, at, 'prose', pieceBytes)
    else if (kind < 0.7) text = nextOf(code, at, 'code', pieceBytes)
    else text = foreignProse(random, language, words.get(language)!, pieceBytes)
    const piece = Buffer.from(text, 'utf8')
      .subarray(0, pieceBytes)
      .toString('utf8')
      .replace(/\ufffd+$/, '')
    bytes += Buffer.byteLength(piece)
    pieces.push(piece)
  }
  return pieces
}

function nextOf(text: string, at: { prose: number; code: number }, kind: 'prose' | 'code', size: number): string {
  if (at[kind] + size > text.length) at[kind] = 0
  at[kind] += size
  return text.slice(at[kind] - size, at[kind])
}
