/**
 * The interpreter of `@huggingface/jinja` inside a fence. A chat template is a program from the internet, so:
 * - every evaluated node, looped item and scanned character costs fuel, and a template stops when it is spent. Fuel and not
 *   a clock, so that a template that works on one machine works on every other, however busy;
 * - no string grows beyond a limit, and operations that multiply are checked before they run;
 * - values are plain data: no host object, prototype or function of this process can be reached;
 * - where the library differs from Python's Jinja in what published templates use (arguments of strip, equality, printing
 *   of none and booleans), Python's behaviour is restored.
 */

import { globals } from './jinja-globals'
import { Environment, Interpreter } from './jinja-library'
import { stringMethods } from './jinja-strings'
import {
  constant,
  isComposite,
  type JinjaValue,
  makeArray,
  makeBoolean,
  makeFunction,
  makeInteger,
  makeString,
  makeUndefined,
  type Node,
  representation,
  TemplateFault,
} from './jinja-values'

/** What one rendering may cost. */
export interface Limits {
  /** Units of about a quarter of a microsecond. */
  fuel: number
  /** Characters of any one string. */
  maxChars: number
}

/** The library marks these private; they are its stable internal seams, and tests pin the version they were read in. */
interface Internals {
  evaluate(node: Node | undefined, scope: Environment): JinjaValue
  evaluateBlock(nodes: Node[], scope: Environment): JinjaValue
  evaluateArguments(args: Node[], scope: Environment): [JinjaValue[], Map<string, JinjaValue>]
  applyFilter(operand: JinjaValue, filter: Node, scope: Environment): JinjaValue
  run(program: Node): JinjaValue
}
const Base = Interpreter as unknown as new (scope: Environment) => Internals

/** Characters that one unit of fuel scans. */
const CHARS_PER_UNIT = 256

/** Filters that look at no member; templates use them inside loops. */
const CHEAP_FILTERS = new Set(['length', 'first', 'last', 'default', 'safe', 'int', 'float', 'abs'])

export class FencedInterpreter extends Base {
  private fuel: number
  private readonly maxChars: number
  private readonly methods = stringMethods(this)

  constructor(
    variables: Record<string, unknown>,
    limits: Limits,
    /** Text of a literal, with marks before its control strings; see template.ts. */
    private readonly literal: (node: Node) => string,
    private readonly unmark: (text: string) => string,
  ) {
    const scope = new Environment()
    super(scope)
    this.fuel = limits.fuel
    this.maxChars = limits.maxChars
    for (const [name, value] of Object.entries(globals(this))) scope.setVariable(name, value as never)
    for (const [name, value] of Object.entries(variables)) {
      scope.variables.delete(name)
      scope.set(name, value)
    }
  }

  spend(units: number): void {
    this.fuel -= units
    // Written so that NaN stops too.
    if (!(this.fuel >= 0)) throw new TemplateFault('limit', 'it runs too long (endless or very large loops?)')
  }

  /** Checks the length of a string before it is built. */
  checkLength(chars: number): void {
    if (!(chars <= this.maxChars))
      throw new TemplateFault('limit', `it builds a text of more than ${this.maxChars} characters`)
    this.spend(1 + chars / CHARS_PER_UNIT)
  }

  /** A string without marks, whose scan is paid for. */
  plain(value: string): string {
    this.spend(value.length / CHARS_PER_UNIT)
    return this.unmark(value)
  }

  override evaluate(node: Node | undefined, scope: Environment): JinjaValue {
    this.spend(1)
    if (node === undefined || node === null) return super.evaluate(undefined, scope)
    switch (node.type) {
      case 'Value':
        return node.value as JinjaValue
      case 'StringLiteral':
        return makeString(this.literal(node))
      case 'BinaryExpression':
        return this.binary(node, scope)
      case 'MemberExpression':
        return this.member(node, scope)
      case 'For':
        return super.evaluate({ ...node, iterable: this.iterable(node.iterable as Node, scope) }, scope)
      default:
        return super.evaluate(node, scope)
    }
  }

  /** Joins what the statements of a block print, as Python prints it. */
  override evaluateBlock(nodes: Node[], scope: Environment): JinjaValue {
    let result = ''
    for (const node of nodes ?? []) {
      const value = this.evaluate(node, scope)
      if (value === undefined || value.type === 'UndefinedValue') continue
      // Statements return none; printing none as an expression does not occur in chat templates.
      if (value.type !== 'NullValue') result += this.print(value)
      if (result.length > this.maxChars) this.checkLength(result.length)
    }
    return makeString(result)
  }

  override evaluateArguments(args: Node[], scope: Environment): [JinjaValue[], Map<string, JinjaValue>] {
    const result = super.evaluateArguments(args, scope)
    for (const value of result[0]) this.spend(1 + sizeOf(value))
    for (const value of result[1].values()) this.spend(1 + sizeOf(value))
    return result
  }

  override applyFilter(operand: JinjaValue, filter: Node, scope: Environment): JinjaValue {
    const value = operand ?? makeUndefined()
    const isCall = filter.type === 'CallExpression'
    const name = (isCall ? (filter.callee as Node).value : filter.value) as string
    if (!CHEAP_FILTERS.has(name)) this.spend(1 + sizeOf(value) + textSize(value) / CHARS_PER_UNIT)
    const raw = (isCall ? filter.args : []) as Node[]
    if (name === 'selectattr' || name === 'rejectattr') return super.applyFilter(value, filter, scope)
    const [args, named] = this.evaluateArguments(raw, scope)
    if (value.type === 'StringValue' && !isCall && this.methods.has(name))
      return this.methods.get(name)!(value, args, named)
    switch (name) {
      case 'trim':
        return value.type === 'StringValue'
          ? this.methods.get('strip')!(value, args, named)
          : makeString(this.print(value).trim())
      case 'replace':
        return this.methods.get('replace')!(makeString(this.print(value)), args, named)
      case 'indent':
        return this.indent(value, args, named)
      case 'join':
        return this.join(value, args, named)
      case 'length':
        if (value.type === 'StringValue') return makeInteger(this.plain(value.value as string).length)
        break
      case 'string':
        return makeString(this.print(value))
      case 'sort':
      case 'dictsort':
      case 'unique':
        this.spend(sortCost(value))
        break
      case 'tojson':
        this.checkLength(this.jsonSize(value, named))
        break
    }
    const constants = [
      ...args.map(constant),
      ...[...named].map(([key, item]) => ({
        type: 'KeywordArgumentExpression',
        key: { type: 'Identifier', value: key },
        value: constant(item),
      })),
    ]
    const result = super.applyFilter(value, isCall ? { ...filter, args: constants } : filter, scope) ?? makeUndefined()
    this.checkLength(textSize(result))
    return result
  }

  /** How Python's Jinja prints a value. */
  print(value: JinjaValue): string {
    if (value.type === 'StringValue') return value.value as string
    if (value.type === 'UndefinedValue') return ''
    if (isComposite(value)) this.checkLength(this.jsonSize(value, new Map()))
    return representation(value)
  }

  private binary(node: Node, scope: Environment): JinjaValue {
    const operator = (node.operator as Node).value as string
    if (operator === 'and' || operator === 'or') return super.evaluate(node, scope)
    const left = this.evaluate(node.left as Node, scope)
    const right = this.evaluate(node.right as Node, scope)
    switch (operator) {
      case '==':
        return makeBoolean(this.equal(left, right))
      case '!=':
        return makeBoolean(!this.equal(left, right))
      case 'in':
        return makeBoolean(this.contains(left, right))
      case 'not in':
        return makeBoolean(!this.contains(left, right))
      case '~':
        return this.concat(this.print(left), this.print(right))
      case '+':
        if (left.type === 'StringValue' && right.type === 'StringValue')
          return this.concat(left.value as string, right.value as string)
        if (left.type === 'StringValue' || right.type === 'StringValue') {
          throw new TemplateFault('error', `it adds ${kindOf(left)} and ${kindOf(right)}`)
        }
        break
      case '*':
        if (left.type === 'StringValue' && right.type === 'IntegerValue') return this.repeat(left, right)
        if (right.type === 'StringValue' && left.type === 'IntegerValue') return this.repeat(right, left)
        break
    }
    this.spend(sizeOf(left) + sizeOf(right))
    return super.evaluate({ ...node, left: constant(left), right: constant(right) }, scope)
  }

  private concat(left: string, right: string): JinjaValue {
    if (left.length + right.length > this.maxChars) this.checkLength(left.length + right.length)
    return makeString(left + right)
  }

  private repeat(text: JinjaValue, count: JinjaValue): JinjaValue {
    const times = Math.max(0, count.value as number)
    this.checkLength((text.value as string).length * times)
    return makeString((text.value as string).repeat(times))
  }

  private equal(left: JinjaValue, right: JinjaValue): boolean {
    if (left.type === 'StringValue' && right.type === 'StringValue') {
      return this.plain(left.value as string) === this.plain(right.value as string)
    }
    const numeric = (value: JinjaValue) => /^(Integer|Float|Boolean)Value$/.test(value.type)
    if (numeric(left) && numeric(right)) return Number(left.value) === Number(right.value)
    return left.type === right.type && left.value === right.value
  }

  private contains(item: JinjaValue, container: JinjaValue): boolean {
    switch (container.type) {
      case 'StringValue':
        if (item.type !== 'StringValue') throw new TemplateFault('error', `it looks for ${kindOf(item)} in a string`)
        return this.plain(container.value as string).includes(this.plain(item.value as string))
      case 'UndefinedValue':
        return false
      case 'ArrayValue':
      case 'TupleValue':
        this.spend(sizeOf(container))
        return (container.value as JinjaValue[]).some((member) => this.equal(item, member))
    }
    if (!isComposite(container)) throw new TemplateFault('error', `it looks for a member in ${kindOf(container)}`)
    return (
      item.type === 'StringValue' && (container.value as Map<string, unknown>).has(this.plain(item.value as string))
    )
  }

  /** Attributes, items, slices; the methods of strings are ours. */
  private member(node: Node, scope: Environment): JinjaValue {
    const object = this.evaluate(node.object as Node, scope)
    let property = node.property as Node
    const isSlice = node.computed === true && property.type === 'SliceExpression'
    if (isSlice) this.spend(sizeOf(object) + textSize(object) / 16)
    else if (node.computed === true) property = constant(this.evaluate(property, scope))
    const base = object.type === 'StringValue' ? makeString(this.plain(object.value as string)) : object
    const name = property.type === 'Value' ? (property.value as JinjaValue).value : property.value
    if (object.type === 'StringValue' && !isSlice && typeof name === 'string') {
      const method = this.methods.get(name)
      if (method === undefined) return name === 'length' ? makeInteger((base.value as string).length) : makeUndefined()
      return makeFunction((args) => {
        const last = args.at(-1)
        const named = last?.type === 'KeywordArgumentsValue' ? (last.value as Map<string, JinjaValue>) : new Map()
        return method(object, named.size > 0 ? args.slice(0, -1) : args, named)
      })
    }
    return this.metered(super.evaluate({ ...node, object: constant(base), property }, scope), object)
  }

  /** Methods of mappings cost what they copy; for every entry they may make a tuple and its values. */
  private metered(value: JinjaValue, receiver: JinjaValue): JinjaValue {
    if (value.type !== 'FunctionValue' || !isComposite(receiver)) return value
    const call = value.value as (args: JinjaValue[], scope: Environment) => JinjaValue
    return makeFunction((args, scope) => {
      this.spend(4 + 12 * sizeOf(receiver) + sortCost(receiver))
      return call(args, scope)
    })
  }

  /** Evaluates what a loop runs over, pays for every item, and lets undefined be empty as in Jinja. */
  private iterable(node: Node, scope: Environment): Node {
    const isSelect = node.type === 'SelectExpression'
    let value = this.evaluate(isSelect ? (node.lhs as Node) : node, scope)
    if (value.type === 'UndefinedValue') value = makeArray([])
    this.spend(4 * sizeOf(value))
    return isSelect ? { ...node, lhs: constant(value) } : constant(value)
  }

  private indent(value: JinjaValue, args: JinjaValue[], named: Map<string, JinjaValue>): JinjaValue {
    const pick = (at: number, name: string) => args[at] ?? named.get(name)
    const width = pick(0, 'width')
    const unit = width === undefined ? 4 : width.value
    if (typeof unit !== 'string' && !(Number.isInteger(unit) && (unit as number) >= 0))
      throw new TemplateFault('error', 'indent: width must be a number')
    const lines = this.print(value).split('\n')
    this.checkLength(
      lines.length * (typeof unit === 'string' ? unit.length : (unit as number)) + this.print(value).length,
    )
    const pad = typeof unit === 'string' ? unit : ' '.repeat(unit as number)
    const first = pick(1, 'first')?.value === true
    const blank = pick(2, 'blank')?.value === true
    return makeString(
      lines.map((line, i) => ((i === 0 && !first) || (line === '' && !blank) ? line : pad + line)).join('\n'),
    )
  }

  private join(value: JinjaValue, args: JinjaValue[], named: Map<string, JinjaValue>): JinjaValue {
    const separator = args[0] ?? named.get('d') ?? named.get('separator')
    const between = separator === undefined ? '' : this.print(separator)
    const attribute = (args[1] ?? named.get('attribute'))?.value
    let texts: string[]
    if (value.type === 'StringValue') {
      texts = Array.from(value.value as string)
      this.spend(texts.length)
      if (typeof attribute === 'string') texts.fill('') // a character has no attributes
    } else if (Array.isArray(value.value)) {
      let items = value.value as JinjaValue[]
      this.spend(items.length)
      if (typeof attribute === 'string')
        items = items.map((item) => (item.value as Map<string, JinjaValue>).get?.(attribute) ?? makeUndefined())
      texts = items.map((item) => this.print(item))
    } else {
      throw new TemplateFault('error', `it joins ${kindOf(value)}`)
    }
    this.checkLength(texts.reduce((sum, text) => sum + text.length, 0) + between.length * Math.max(0, texts.length - 1))
    return makeString(texts.join(between))
  }

  /** About the characters of a value's JSON; a value that contains itself is stopped here. */
  private jsonSize(value: JinjaValue, named: Map<string, JinjaValue>): number {
    const indent = Number(named.get('indent')?.value ?? 0)
    const separators = named.get('separators')?.value
    const between = Array.isArray(separators) ? separators.reduce((sum, item) => sum + String(item.value).length, 0) : 4
    if (!(indent >= 0 && indent <= 16 && between <= 64))
      throw new TemplateFault('error', 'tojson: indent or separators are too large')
    let size = 0
    const stack: [JinjaValue, number][] = [[value, 1]]
    for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
      const [item, depth] = top
      this.spend(1)
      if (depth > 500) throw new TemplateFault('limit', 'it prints a value that is nested too deeply')
      size += between + 8 + 2 * indent * depth
      if (item.type === 'StringValue') size += (item.value as string).length
      else if (isComposite(item)) {
        for (const [key, child] of entriesOf(item)) {
          size += key.length
          stack.push([child, depth + 1])
        }
      }
      if (size > this.maxChars) this.checkLength(size)
    }
    return size
  }
}

/** Items of a value that an operation may have to copy. */
function sizeOf(value: JinjaValue): number {
  if (Array.isArray(value.value)) return value.value.length
  return value.value instanceof Map ? value.value.size : 0
}

function textSize(value: JinjaValue): number {
  return value.type === 'StringValue' ? (value.value as string).length : 0
}

/** Comparisons of a sort, each as dear as the longest text is. */
function sortCost(value: JinjaValue): number {
  const n = sizeOf(value)
  let chars = 0
  for (const [key, item] of isComposite(value) ? entriesOf(value) : [])
    chars = Math.max(chars, key.length, textSize(item))
  return n * Math.ceil(Math.log2(n + 2)) * (1 + chars / CHARS_PER_UNIT)
}

function entriesOf(value: JinjaValue): Iterable<[string, JinjaValue]> {
  if (Array.isArray(value.value)) return (value.value as JinjaValue[]).map((item): [string, JinjaValue] => ['', item])
  return value.value as Map<string, JinjaValue>
}

function kindOf(value: JinjaValue): string {
  return value.type.replace(/Value$/, '').toLowerCase()
}
