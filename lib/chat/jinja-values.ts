/** Values of the template language: made by the library's own classes, which it does not export. */
import { Environment } from './jinja-library'

/** A syntax node of the library. */
export interface Node {
  type: string
  [field: string]: unknown
}

/** A runtime value of the library. */
export interface JinjaValue {
  type: string
  value: unknown
  toString(): string
}

/**
 * Why a template stopped: it called raise_exception (the messages are at fault), it hit a limit of the fence, or it is
 * broken.
 */
export class TemplateFault extends Error {
  constructor(
    readonly reason: 'raised' | 'limit' | 'error',
    message: string,
  ) {
    super(message)
  }
}

type Maker<T> = new (value: T) => JinjaValue
const classOf = <T>(sample: unknown) => new Environment().set('sample', sample).constructor as unknown as Maker<T>

const StringClass = classOf<string>('')
const IntegerClass = classOf<number>(0)
const BooleanClass = classOf<boolean>(true)
const ArrayClass = classOf<JinjaValue[]>([])
const FunctionClass = classOf<(args: JinjaValue[], scope: Environment) => JinjaValue>(() => null)
const NullClass = classOf<null>(null)
const UndefinedClass = classOf<undefined>(undefined)

export const makeString = (value: string): JinjaValue => new StringClass(value)
export const makeInteger = (value: number): JinjaValue => new IntegerClass(value)
export const makeBoolean = (value: boolean): JinjaValue => new BooleanClass(value)
export const makeArray = (value: JinjaValue[]): JinjaValue => new ArrayClass(value)
export const makeFunction = (value: (args: JinjaValue[], scope: Environment) => JinjaValue): JinjaValue =>
  new FunctionClass(value)
export const makeNull = (): JinjaValue => new NullClass(null)
export const makeUndefined = (): JinjaValue => new UndefinedClass(undefined)

/** A node that evaluates to a value which is known already. */
export const constant = (value: JinjaValue): Node => ({ type: 'Value', value })

/** Arrays, mappings and namespaces. */
export function isComposite(value: JinjaValue): boolean {
  return Array.isArray(value.value) || value.value instanceof Map
}

/** Python's repr(). The caller has checked that the value is neither too deep nor too large. */
export function representation(value: JinjaValue): string {
  switch (value.type) {
    case 'StringValue':
      return quoted(value.value as string)
    case 'BooleanValue':
      return value.value ? 'True' : 'False'
    case 'NullValue':
      return 'None'
    case 'UndefinedValue':
      return 'Undefined'
    case 'FunctionValue':
      throw new TemplateFault('error', 'it prints a function')
  }
  if (Array.isArray(value.value)) {
    const items = (value.value as JinjaValue[]).map(representation).join(', ')
    if (value.type !== 'TupleValue') return `[${items}]`
    return value.value.length === 1 ? `(${items},)` : `(${items})`
  }
  if (value.value instanceof Map) {
    const entries = [...(value.value as Map<string, JinjaValue>)]
    return `{${entries.map(([key, item]) => `${quoted(key)}: ${representation(item)}`).join(', ')}}`
  }
  return value.toString()
}

/** Single quotes, unless the text has some and no double ones. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const named: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\', [quote]: `\\${quote}` }
  const escaped = (char: string) => named[char] ?? `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`
  // biome-ignore lint/suspicious/noControlCharactersInRegex: exactly these are escaped
  const special = quote === "'" ? /[\\'\u0000-\u001f\u007f-\u00a0\u00ad]/g : /[\\"\u0000-\u001f\u007f-\u00a0\u00ad]/g
  return quote + text.replace(special, escaped) + quote
}
