"""Letters of languages, in the order of their frequency, and the encodings that each was written in before UTF-8.

Frequencies are common knowledge, and only their order is used; benchmarks/bench_encodings.py measures how far they go.
"""

from __future__ import annotations

from dataclasses import dataclass

_WESTERN = ("cp1252", "cp850", "mac_roman", "iso8859_15", "cp437")
_CENTRAL = ("cp1250", "iso8859_2", "cp852", "mac_latin2")
_BALTIC = ("cp1257", "iso8859_13", "iso8859_4", "cp775")
_TURKISH = ("cp1254", "cp857", "mac_turkish")
_CYRILLIC = ("cp1251", "iso8859_5", "mac_cyrillic")


@dataclass(frozen=True, slots=True)
class Alphabet:
    """Letters of a language beyond ASCII, most frequent first, in lower case, and its single-byte encodings."""

    language: str
    letters: str
    encodings: tuple[str, ...]


ALPHABETS = (
    Alphabet("en", "éèïçöñêáëüó", _WESTERN),
    Alphabet("de", "üäößéàè", _WESTERN),
    Alphabet("fr", "éèàêçùôîâûëïœüæÿ", (*_WESTERN, "cp863")),
    Alphabet("es", "óíáéñúü", _WESTERN),
    Alphabet("pt", "ãçáéíóêõâúàôü", (*_WESTERN, "cp860")),
    Alphabet("it", "èàòùìéîó", _WESTERN),
    Alphabet("nl", "ëéïöèüóêçáà", _WESTERN),
    Alphabet("sv", "äåöéàü", _WESTERN),
    Alphabet("da", "åøæéöäü", (*_WESTERN, "cp865")),
    Alphabet("no", "åøæéòôóäö", (*_WESTERN, "cp865")),
    Alphabet("fi", "äöåéšž", _WESTERN),
    Alphabet("is", "áðíþéóúöýæ", (*_WESTERN, "cp861", "mac_iceland")),
    Alphabet("fo", "áðíøóúæý", (*_WESTERN, "cp861", "mac_iceland")),
    Alphabet("sq", "ëç", _WESTERN),
    Alphabet("ca", "àéóèíòçúüï", _WESTERN),
    Alphabet("ga", "áíéóú", _WESTERN),
    Alphabet("hu", "áéöőíóüúű", _CENTRAL),
    Alphabet("pl", "łąęóżśćńź", _CENTRAL),
    Alphabet("cs", "íáéěřčžšýůúňťďó", _CENTRAL),
    Alphabet("sk", "áíéčžýúšľôťňďäóĺŕ", _CENTRAL),
    Alphabet("sl", "čšžćđ", (*_CENTRAL, "mac_croatian")),
    Alphabet("hr", "čšžćđ", (*_CENTRAL, "mac_croatian")),
    Alphabet("ro", "ăşţîâșț", (*_CENTRAL, "mac_romanian")),
    Alphabet("et", "äõüöšž", (*_WESTERN, *_BALTIC)),
    Alphabet("lv", "āīēšūņļžģķčōŗ", _BALTIC),
    Alphabet("lt", "ėšžųįąūčę", _BALTIC),
    Alphabet("tr", "ıüşğçöİâîû", (*_TURKISH, "iso8859_3")),
    Alphabet("cy", "ŵŷâêôîáïẁ", ("iso8859_14",)),
    Alphabet("se", "áčđšžŋŧåäöøæ", ("iso8859_10", "iso8859_4")),
    Alphabet("eo", "ĝŭĉŝĵĥ", ("iso8859_3",)),
    Alphabet("mt", "ħġżċàòùì", ("iso8859_3",)),
    Alphabet("vi", "đưôơâêăàáãèéìíòóõùúýọạộ", ("cp1258",)),
    Alphabet("ru", "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё", (*_CYRILLIC, "koi8_r", "cp866")),
    Alphabet("uk", "оанивтіерслкдмупязьгбчйхцжїюєшщфґ", (*_CYRILLIC, "koi8_u", "cp1125")),
    Alphabet("be", "аніоытсрекдлмуўпзяьвгбшчйхжцюёэф", (*_CYRILLIC, "koi8_u", "cp866")),
    Alphabet("bg", "аоиетнрсвлкдпмзяъугчбйжхцшщюфь", (*_CYRILLIC, "cp866", "koi8_r")),
    Alphabet("sr", "аоеинтрсјувдкмлпзбгњчљшжћцхђфџ", (*_CYRILLIC, "cp855")),
    Alphabet("mk", "аоеинтрсвлдкјпмузбгшжчцњхќѓљџѕф", (*_CYRILLIC, "cp855")),
    Alphabet("el", "αοιετσνηυρπκμλςωίάόέδγήύθχώφβξζψϊϋΐΰ", ("cp1253", "iso8859_7", "cp737", "cp869", "mac_greek")),
    Alphabet("he", "יוהלאמרתבשנדםחקפעצכטןגסזךץף", ("cp1255", "cp862", "iso8859_8")),
    Alphabet("ar", "اليمنوترةبعدسفهكقحأجىشطصخذضزءإغثئظآؤ", ("cp1256", "iso8859_6", "cp720")),
    Alphabet("fa", "ايرندهموتبسشزکگفعخقپجحلطصضكچژغئآثذظء", ("cp1256",)),
    Alphabet("th", "านรก่อเง้มยลัวีดทตสิ์ปะบคหำแุจพชขใไื็ู์ึโผถศซณภธษฐญฤฟฮฉฝฎฒฬฏฆๆฯ", ("cp874",)),
)

COMMON_WORDS = {
    "en": "the of and to in is that for it as with was on by be are this from or an not have has at but which you we",
    "de": "der die und in den von zu das mit sich des auf ist im dem nicht ein eine als auch es an werden aus er hat",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son nous",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como pero sus le ha me si sin o este",
    "pt": "de a o que e do da em um para com uma os no se na por mais as dos como mas ao ele das tem seu sua ou quando",
    "it": "di e il la che in un a per del non una si con da le i della al sono dei come alla lo nel ma se anche gli ho",
    "nl": "de het een van en in is op te dat die voor met zijn niet aan er om ook als bij maar naar uit door over ze",
    "sv": "och i att det som en av den med till inte han de har ett om var men sig vi kan hon mitt nu min eller hans",
    "da": "og i at det en af den til er som med de han ikke der var et har jeg men sig vi kan fra hun om ved da min",
    "no": "og i det en av er som til den med ikke et de har at han var jeg men seg vi kan fra hun om ved da min eller",
    "fi": "ja on ei ole se oli joka mutta kun niin ovat tai sen jos vain kuin mukaan ennen kanssa sekä nyt hän minun",
    "is": "og er sem en hann til um var ekki hefur verið eru fyrir af frá með hann ég hún þetta svo nú eftir sig skal",
    "sq": "dhe i e në të për me se një që nga ka është si por kjo nuk janë do ishte ku pas mbi ne ata kur tij ose mund",
    "ca": "de la i el que en a les els per un una del amb no es al va com dels ha pel seu molt aquest tots quan vam fa",
    "ga": "an na agus ar le is go do ag seo bhí sin nach i mar ach ina den leis aon",
    "hu": "a az egy hogy nem is ez volt meg csak de mint ha el van vagy akkor kell mert minden ki mi be ide magyar sok",
    "pl": "i w na z do nie jest to o po od za przez dla ale jak czy tym tego ma jego oraz tylko jej co tak ich przy by",
    "cs": "a se v na je to do s z ve ale jako za po podle od pro nebo co tak bylo jeho byl o aby jsem jsme ho jen jak",
    "sk": "a sa v na je to do s z vo ale ako za po od pre alebo tak bolo jeho bol o aby som sme ho len ktor nie si sme",
    "sl": "in je v na se za da so ki z po pa bi ali kot tudi od o do ne bil iz pri to ko sem smo lahko kje le pred",
    "hr": "i je u na se da za su od s o koji a kao to iz ne po bi nije ili sam smo do te ali samo kako bio biti",
    "ro": "de a la cu pe nu un o se din care este ca mai prin pentru au sau fi al lui ei mi ne le unde cea cel fost",
    "et": "ja on ei et see ta oli kui ka ma aga siis oma mis ning kes nii ole ning kas sest mida seda nagu pole veel",
    "lv": "un ir no ar par uz ka kas to bet tas vai pie mans kur nav kad bija viss pat gan arī lai pa ne mums jo tai",
    "lt": "ir yra kad tai su ne bet per nes mano kaip buvo jo iki ar kas prie tik dar jie man apie nuo po jau tarp kur",
    "tr": "bir ve bu da de ne ama daha olan olarak gibi sonra kadar en var mi ben o ki onun her biri hem iki zaman yok",
    "eo": "la kaj de en estas al ne mi li por kun oni sed el kiu ke pri unu",
    "vi": "ta ra trong cho khi theo con tay sau hai ba nam xa lan xin anh em cao",
}
"""Frequent words of languages with Latin letters; those beyond ASCII are ignored."""

SINGLE_BYTE = {
    "cp1252": 0.0, "cp1251": -0.2, "cp1250": -0.5, "cp1253": -0.5, "cp1254": -0.7, "cp1255": -0.5, "cp1256": -0.5,
    "cp1257": -1.0, "cp874": -0.5, "cp1258": -4.0, "koi8_r": -0.7, "koi8_u": -1.0, "cp866": -0.7,
    "iso8859_2": -0.8, "iso8859_5": -1.2, "iso8859_7": -0.8, "iso8859_8": -1.0, "iso8859_6": -0.8,
    "iso8859_15": -0.5, "iso8859_13": -1.5, "iso8859_4": -1.7, "iso8859_3": -3.5,
    "cp850": -1.5, "cp437": -1.8, "cp852": -1.5, "cp865": -2.5, "cp861": -3.0, "cp775": -2.5, "cp857": -2.2,
    "cp737": -1.5, "cp862": -1.5, "cp720": -2.0, "cp1125": -2.0, "cp855": -3.0,
    "mac_roman": -2.0, "mac_cyrillic": -1.5, "mac_greek": -2.0, "mac_latin2": -2.5, "mac_turkish": -2.8,
    "mac_iceland": -3.2, "cp860": -3.5, "cp863": -4.0, "cp869": -3.5, "mac_croatian": -4.0, "mac_romanian": -4.5,
    "iso8859_14": -4.0, "iso8859_10": -4.5,
}  # fmt: skip
"""Encodings to choose from, and the logarithm of how usual each is compared with Windows-1252 (a guess): it decides
where a text is too short to tell."""

COMMON_HAN = (
    "的一是不了在人有我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于於着著下自之年过過发發后後作里裡用"
    "道行所然家种種事成方多经經么麼去法学學如都同现現当當没沒动動面起看定天分还還进進好小部其些主样樣理心她本前开開但因只从從想实實日军軍者意"
    "无無力它与與长長把机機十民第公此已工使情明性知全三又关關点點正业業外将將两兩高间間由问問很最重并並物手应應战戰向头頭文体體政美相见見被利"
    "什二等产產或新己制身果加西斯月话話合回特代内內信表化老给給世位次度门門任常先海通教儿兒原东東声聲提立及比员員解水名真论論处處走义義各入几幾"
    "口认認条條平系气氣题題活更别別打女变變四神总總何电電数數安少报報才结結反受目太量再感建务務做接必场場件计計管期市直资資命山金指许許统統区區"
    "保至队隊形社便空决決治展马馬科司五基眼书書非则則听聽白却卻界达達光放强強即像难難且权權思王象完设設式色路记記南品住告类類求据據程北边邊死张"
    "張该該交规規万萬取拉格望觉覺术術领領共确確传傳师師观觀清今切院让讓识識候带帶导導争爭运運孩园園店请請近药藥桌读讀森林火车車坐爷爺湖房"
)
"""Frequent Chinese characters, simplified and traditional."""

COMMON_KANJI = (
    "日一国人年大十二本中長出三時行見月後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男西電校語土木聞食車何南万毎"
    "白天母火右読友左休父雨事会社自者業発地方場員立開手力問代明動京目通言理体田主題意不作用度強公持野以思家世多正安院心界教文元重近考画海売知"
    "集別物使品計死特私始朝運終台広住真有料口足料様商名株式都県市区町村数量合計注文確認在庫座銀店様号便線図新聞部分的性化対応表示設定変更削除"
)
"""Frequent characters of Japanese texts, forms and lists."""

COMMON_HALF_KANA = "ﾝﾞｼｲｳｰﾄﾙｽﾘｶﾀｸﾗｺﾏﾌﾃﾅｵｱｷｮﾊｭﾂﾚﾛﾐﾁﾉﾆﾔｯﾓﾑﾒｹｾｻﾈﾋﾎﾟﾕﾖﾜｴｪｬﾇﾍｧｩｨｫｦ･｡､｢｣"
"""Half-width katakana of lists and forms, most frequent first."""

COMMON_HANGUL = (
    "이다의는에을가고한하지로사기어나리은도자인시정부대장일아수있전보해서그게주스를과것들라니으습안제만오"
    "원위구비상와성해했면여세내"
)
"""Frequent syllables of Korean texts."""
