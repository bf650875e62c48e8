import { Qwen3Error } from '../errors'
import { FencedInterpreter } from './jinja'
import { parse, tokenize } from './jinja-library'
import { type Node, TemplateFault } from './jinja-values'
import type { TemplateMessage } from './messages'
import { invalid, plainJson, type Size } from './plain'

/** A rendered prompt: the text, and where it is not made of control tokens. */
export interface MarkedText {
  text: string
  /**
   * Stretches of plain text, as ascending pairs `[start, end, ...]` of UTF-16 offsets. Everything between them is control
   * strings that the template itself wrote. Hand both to `tokenizer.encode(text, { parseSpecial: true, literal })`.
   */
  literal: number[]
}

export interface RenderArguments {
  messages: TemplateMessage[]
  tools?: unknown[]
  addGenerationPrompt: boolean
  enableThinking?: boolean
  /** Further variables of the template; none of the reserved names. */
  extra?: Record<string, unknown>
}

/** Variables that only this library sets. */
export const RESERVED_ARGUMENTS: readonly string[] = [
  'messages',
  'tools',
  'documents',
  'add_generation_prompt',
  'enable_thinking',
  'bos_token',
  'eos_token',
  'pad_token',
  'unk_token',
  'chat_template',
  'tokenize',
  'continue_final_message',
  'return_dict',
  'range',
  'namespace',
  'raise_exception',
  'strftime_now',
  'true',
  'false',
  'none',
  'True',
  'False',
  'None',
  'loop',
  'caller',
  'varargs',
  'kwargs',
]

const MAX_SOURCE = 128 << 10
const MAX_TOKENS = 100_000
const MAX_NESTING = 100
const MAX_EXPRESSION = 2000
/** Longer runs of whitespace make a regular expression of the library's lexer quadratic. */
const LONG_SPACE = /\s{256}/

const OPEN = '<think>'
const CLOSE = '</think>'

/** About 15 ms of rendering for the smallest prompt; more for each value and character that goes in. */
const BASE_FUEL = 50_000
const FUEL_PER_VALUE = 200
const CHARS_PER_UNIT = 8
const MAX_GROWTH = 1 << 20

/** Code units that stand for "a control string of the template begins here": private use, so they are rarely in texts. */
const FIRST_MARK = 0xe000
const LAST_MARK = 0xf8ff

/**
 * A model's chat template, compiled once. Rendering tells apart what the template wrote from what came in with the
 * messages: control strings in the template's literals carry a mark in front of them while it runs (a character that
 * occurs in no input), and only marked ones become control tokens. Whatever a user writes stays text.
 */
export class ChatTemplate {
  private readonly program: Node
  private readonly controls: string[]
  private readonly literals = new Map<Node, string>()

  /** Throws `BAD_MODEL_FILE` for a template that does not parse or is too large or too deeply nested. */
  constructor(
    private readonly source: string,
    controlStrings: readonly string[],
    private readonly variables: Readonly<Record<string, string>> = {},
  ) {
    // Longest first, as the tokenizer matches.
    this.controls = [...controlStrings].filter((text) => text !== '').sort((a, b) => b.length - a.length)
    this.program = compile(source)
    for (const node of stringLiterals(this.program)) {
      const marked = this.mark(node.value as string, DEFAULT_MARK)
      if (marked !== node.value) this.literals.set(node, marked)
    }
  }

  /** Throws `INVALID_ARGUMENT` when the template rejects the messages, `BAD_MODEL_FILE` when it fails or runs too long. */
  render(args: RenderArguments, size: Size): MarkedText {
    for (const name of Object.keys(args.extra ?? {})) {
      if (RESERVED_ARGUMENTS.includes(name))
        throw invalid(`templateArguments.${name}`, 'a name that is not reserved', name)
    }
    const extra = plainJson(args.extra ?? {}, 'templateArguments', size) as Record<string, unknown>
    const mark = this.freeMark([args.messages, args.tools, extra])
    const variables: Record<string, unknown> = Object.create(null)
    for (const [name, value] of Object.entries(this.variables)) variables[name] = this.mark(value, mark)
    Object.assign(variables, extra, {
      messages: args.messages.map((message) => this.markThinking(message, mark)),
      add_generation_prompt: args.addGenerationPrompt,
    })
    if (args.tools !== undefined) variables.tools = args.tools
    if (args.enableThinking !== undefined) variables.enable_thinking = args.enableThinking
    const fuel = BASE_FUEL + FUEL_PER_VALUE * size.values + size.chars / CHARS_PER_UNIT
    const maxChars = MAX_GROWTH + 2 * size.chars + 32 * size.values
    const literal = (node: Node) => {
      const marked = this.literals.get(node) ?? (node.value as string)
      return mark === DEFAULT_MARK ? marked : marked.replaceAll(DEFAULT_MARK, mark)
    }
    const unmark = (text: string) => (text.includes(mark) ? text.replaceAll(mark, '') : text)
    const run = () =>
      new FencedInterpreter(variables, { fuel, maxChars }, literal, unmark).run(this.program).value as string
    return this.separate(guarded(run), mark)
  }

  private mark(text: string, mark: string): string {
    let result = ''
    let done = 0
    for (let at = 0; at < text.length; at++) {
      const control = this.controls.find((candidate) => text.startsWith(candidate, at))
      if (control === undefined) continue
      result += text.slice(done, at) + mark + control
      at += control.length - 1
      done = at + 1
    }
    return result + text.slice(done)
  }

  /** Complete think blocks that an assistant turn carries in its content are the model's own and stay control tokens. */
  private markThinking(message: TemplateMessage, mark: string): TemplateMessage {
    if (message.role !== 'assistant' || !message.content.includes(CLOSE)) return message
    if (!this.controls.includes(OPEN) || !this.controls.includes(CLOSE)) return message
    let content = ''
    let done = 0
    for (let close = message.content.indexOf(CLOSE); close >= 0; close = message.content.indexOf(CLOSE, done)) {
      const open = message.content.lastIndexOf(OPEN, close)
      const end = close + CLOSE.length
      if (open < done) content += message.content.slice(done, end)
      else content += message.content.slice(done, open) + mark + message.content.slice(open, close) + mark + CLOSE
      done = end
    }
    content += message.content.slice(done)
    return { ...message, content }
  }

  /** A private-use character that neither the template nor any input contains. */
  private freeMark(inputs: unknown): string {
    const isFree = (mark: string) => !this.source.includes(mark) && !contains(inputs, mark)
    if (isFree(DEFAULT_MARK)) return DEFAULT_MARK
    const used = new Set<number>()
    collectPrivate(this.source, used)
    visitStrings(inputs, (text) => {
      collectPrivate(text, used)
      return false
    })
    for (let code = FIRST_MARK; code <= LAST_MARK; code++) if (!used.has(code)) return String.fromCharCode(code)
    throw invalid('messages', 'texts that leave one private-use character (U+E000 to U+F8FF) unused', 'all of them')
  }

  /** Takes the marks out again and notes the stretches between marked control strings. */
  private separate(marked: string, mark: string): MarkedText {
    const literal: number[] = []
    const pieces: string[] = []
    let length = 0
    let plainFrom = 0
    let at = 0
    const push = (piece: string) => {
      pieces.push(piece)
      length += piece.length
    }
    for (let next = marked.indexOf(mark); next >= 0; next = marked.indexOf(mark, at)) {
      push(marked.slice(at, next))
      at = next + 1
      const control = this.controls.find((candidate) => marked.startsWith(candidate, at))
      if (control === undefined) continue
      if (length > plainFrom) literal.push(plainFrom, length)
      push(control)
      plainFrom = length
      at += control.length
    }
    push(marked.slice(at))
    if (length > plainFrom) literal.push(plainFrom, length)
    return { text: pieces.join(''), literal }
  }
}

const DEFAULT_MARK = String.fromCharCode(FIRST_MARK)

function compile(source: string): Node {
  const bad = (problem: string, cause?: unknown) =>
    new Qwen3Error('BAD_MODEL_FILE', `The model's chat template cannot be used: ${problem}.`, {
      subject: 'chat_template',
      cause,
    })
  if (source.length > MAX_SOURCE) throw bad(`${source.length} characters; at most ${MAX_SOURCE} are read`)
  if (LONG_SPACE.test(source)) throw bad('it has a run of 256 or more blanks')
  try {
    const tokens = tokenize(source, { lstrip_blocks: true, trim_blocks: true })
    if (tokens.length > MAX_TOKENS) throw bad(`more than ${MAX_TOKENS} tokens`)
    checkNesting(tokens, bad)
    return parse(tokens) as unknown as Node
  } catch (error) {
    if (error instanceof Qwen3Error) throw error
    if (error instanceof RangeError) throw bad('it is nested too deeply', error)
    throw bad(`it does not parse: ${(error as Error).message.slice(0, 300)}`, error)
  }
}

/** The parser recurses: its depth is bounded before it starts. */
function checkNesting(tokens: { type: string; value: string }[], bad: (problem: string) => Qwen3Error): void {
  let depth = 0
  let opened = 0
  for (const [i, { type, value }] of tokens.entries()) {
    // Chains of operators nest to the left, one level each, and so recurse as well.
    if (type === 'OpenStatement' || type === 'OpenExpression') opened = i
    else if (i - opened > MAX_EXPRESSION && type !== 'Text')
      throw bad(`an expression of more than ${MAX_EXPRESSION} tokens`)
    if (type.startsWith('Open') && type !== 'OpenStatement' && type !== 'OpenExpression') depth++
    else if (type.startsWith('Close') && type !== 'CloseStatement' && type !== 'CloseExpression') depth--
    else if (type === 'Identifier' && tokens[i - 1]?.type === 'OpenStatement') {
      if (/^(if|for|macro|call|filter)$/.test(value) || (value === 'set' && isBlockSet(tokens, i))) depth++
      else if (/^end(if|for|macro|call|filter|set)$/.test(value)) depth--
    }
    if (depth > MAX_NESTING) throw bad(`nested deeper than ${MAX_NESTING} levels`)
  }
}

/** `{% set x %}...{% endset %}`: there is no `=` before the statement closes. */
function isBlockSet(tokens: { type: string }[], at: number): boolean {
  const end = Math.min(tokens.length, at + MAX_EXPRESSION)
  for (let i = at; i < end; i++) {
    if (tokens[i]!.type === 'Equals') return false
    if (tokens[i]!.type === 'CloseStatement') return true
  }
  return false
}

/** Literals and texts of a template, without recursion. */
function* stringLiterals(program: Node): Generator<Node> {
  const stack: unknown[] = [program]
  while (stack.length > 0) {
    const item = stack.pop()
    if (typeof item !== 'object' || item === null) continue
    if (item instanceof Map) for (const [key, value] of item) stack.push(key, value)
    else if ((item as Node).type === 'StringLiteral') yield item as Node
    else for (const value of Object.values(item)) stack.push(value)
  }
}

function guarded(run: () => string): string {
  try {
    return run()
  } catch (error) {
    if (error instanceof Qwen3Error) throw error
    if (error instanceof TemplateFault && error.reason === 'raised') {
      throw new Qwen3Error('INVALID_ARGUMENT', `The model's chat template rejects the messages: ${error.message}`, {
        subject: 'messages',
      })
    }
    // A stack overflow is an ordinary exception in JavaScript: nothing is left half done.
    const problem =
      error instanceof RangeError
        ? 'it recurses too deeply or builds too long a text'
        : (error as Error).message.slice(0, 300)
    throw new Qwen3Error('BAD_MODEL_FILE', `The model's chat template failed: ${problem}.`, {
      subject: 'chat_template',
      cause: error,
    })
  }
}

function contains(value: unknown, mark: string): boolean {
  return visitStrings(value, (text) => text.includes(mark))
}

/** Visits every string and key; stops when the visitor returns true. */
function visitStrings(root: unknown, visit: (text: string) => boolean): boolean {
  const stack: unknown[] = [root]
  while (stack.length > 0) {
    const item = stack.pop()
    if (typeof item === 'string') {
      if (visit(item)) return true
    } else if (typeof item === 'object' && item !== null) {
      for (const key of Object.keys(item)) {
        if (!Array.isArray(item) && visit(key)) return true
        stack.push((item as Record<string, unknown>)[key])
      }
    }
  }
  return false
}

function collectPrivate(text: string, used: Set<number>): void {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code >= FIRST_MARK && code <= LAST_MARK) used.add(code)
  }
}
