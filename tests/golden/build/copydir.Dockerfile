FROM BASE
COPY dir /d
COPY dir/ /d2/
COPY dir /exist/
COPY . /all/
